package cli

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"filippo.io/age"

	"github.com/meshless-dev/meshless/fn/seal"
	"github.com/meshless-dev/meshless/internal/private"
)

// Environment variables that hold the age identity of the CA.
const (
	caIdentityVariable     = "MESHLESS_CA_IDENTITY"
	caIdentityFileVariable = "MESHLESS_CA_IDENTITY_FILE"
)

// caIdentity is the age identity that opens CA keys. It is for this process alone: not for the programs that kustomize
// starts (functions, git, helm), whoever wrote them.
type caIdentity struct {
	exposed error                          // why other processes of the user may see it; nil if they do not
	read    func() ([]age.Identity, error) // see readIdentity; what was read once stays
}

// keepIdentity is the first thing that the program does: from then on no other process of its user sees its memory, nor
// the identity in the environment that the kernel keeps for it. Keys of authorities are in its memory, too, whoever
// gave the identity.
func keepIdentity() *caIdentity {
	return &caIdentity{
		exposed: errors.Join(private.Memory(), private.Environment(caIdentityVariable), private.Descriptors()),
		read:    sync.OnceValues(readIdentity),
	}
}

// hide takes the identity out of what programs inherit, until the returned function is called. It is read before: a
// pipe gives it once, and to whoever asks first.
func (c *caIdentity) hide() (show func(), err error) {
	hidden := map[string]string{}
	for _, name := range []string{caIdentityVariable, caIdentityFileVariable} {
		if value := os.Getenv(name); value != "" {
			hidden[name] = value
		}
	}
	if len(hidden) > 0 && c.exposed != nil {
		return nil, fmt.Errorf("the CA's identity cannot be hidden from the programs that kustomize starts: %w. Run without it, or where /proc is mounted", c.exposed)
	}
	_, _ = c.read() // whoever needs it gets the error
	for name := range hidden {
		_ = os.Unsetenv(name)
	}
	return func() {
		for name, value := range hidden {
			_ = os.Setenv(name, value)
		}
	}, nil
}

// readIdentity reads the identities from the environment, or from the file that it names; none when no variable is set.
// Errors never quote a value.
func readIdentity() ([]age.Identity, error) {
	text, name := os.Getenv(caIdentityVariable), caIdentityVariable
	if path := os.Getenv(caIdentityFileVariable); text == "" && path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", caIdentityFileVariable, err)
		}
		text, name = string(data), caIdentityFileVariable
	}
	if text == "" {
		return nil, nil
	}
	identities, err := seal.ParseIdentities(text)
	if err != nil {
		return nil, fmt.Errorf("%s %w", name, err)
	}
	return identities, nil
}
