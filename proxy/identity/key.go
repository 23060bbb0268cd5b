package identity

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/proxy/files"
)

// maxIdentities bounds the work: each identity is tried on each stanza of a file that anyone with the recipient can
// make.
const maxIdentities = 16

// openKey opens the sealed key, or reads the plain one where no sealed one is there. Errors of the parsers are
// replaced, not wrapped: some of them quote what they read.
func openKey(g *files.Generation) (crypto.Signer, error) {
	if g.SealedKey == nil {
		return parseKey(g.PlainKey, api.PlainKeyFile)
	}
	identities, err := age.ParseIdentities(bytes.NewReader(g.Identity))
	if err != nil {
		return nil, fmt.Errorf("%s holds no list of age identities (one AGE-SECRET-KEY-... per line): make one with `meshless keygen`", api.IdentityFile)
	}
	if len(identities) > maxIdentities {
		return nil, fmt.Errorf("%s holds %d identities, at most %d are tried: remove those that seal nothing any more",
			api.IdentityFile, len(identities), maxIdentities)
	}
	plain, err := decrypt(g.SealedKey, identities)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	return parseKey(plain, api.SealedKeyFile)
}

// recipientsOf names the public halves of identities, which people find in the config.
func recipientsOf(identities []age.Identity) string {
	var recipients []string
	for _, i := range identities {
		switch i := i.(type) {
		case *age.X25519Identity:
			recipients = append(recipients, i.Recipient().String())
		case *age.HybridIdentity:
			recipients = append(recipients, i.Recipient().String()[:32]+"...") // 2 KiB
		}
	}
	return " (" + strings.Join(recipients, ", ") + ")"
}

func decrypt(sealed []byte, identities []age.Identity) ([]byte, error) {
	opened, err := age.Decrypt(armor.NewReader(bytes.NewReader(sealed)), identities...)
	if noMatch := new(age.NoIdentityMatchError); errors.As(err, &noMatch) {
		return nil, fmt.Errorf("%s is sealed to none of the identities in %s%s: is the right one in the Secret of this namespace? If it was exchanged, put its recipient into spec.sealing and run `meshless issue`",
			api.SealedKeyFile, api.IdentityFile, recipientsOf(identities))
	}
	if err != nil {
		return nil, fmt.Errorf("%s is not an armored age file: was it changed by hand or cut off?", api.SealedKeyFile)
	}
	plain, err := io.ReadAll(io.LimitReader(opened, svid.MaxKey+1))
	if err != nil {
		clear(plain)
		return nil, fmt.Errorf("%s is damaged: run `meshless issue` to make a new one", api.SealedKeyFile)
	}
	if len(plain) > svid.MaxKey {
		clear(plain)
		return nil, fmt.Errorf("%s opens to more than %d bytes, which is no key", api.SealedKeyFile, svid.MaxKey)
	}
	return plain, nil
}

// parseKey reads a key; file is where it was found.
func parseKey(text []byte, file string) (crypto.Signer, error) {
	key, err := svid.ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s %w", file, err)
	}
	return key, nil
}
