package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
)

const (
	// maxSealedSize bounds what is read as a sealed key: an RSA-4096 key with dozens of post-quantum recipients is far
	// smaller.
	maxSealedSize = 1 << 20
	// minPayload is the shortest payload of an age file that holds anything: the nonce, the tag of one chunk, and a
	// byte (age specification, "Payload").
	minPayload = 16 + 16 + 1
)

// The types of stanzas that our recipients make (age specification, "Native recipients").
const (
	classicStanza     = "X25519"
	postQuantumStanza = "mlkem768x25519"
)

// errNoAgeFile says nothing of the cause: the messages of the library quote what they read, which may be a key in the
// clear.
var errNoAgeFile = errors.New("is not an armored age file")

// decode reads the armor to its end, so that a file that was cut off is noticed as well.
func decode(sealed string) ([]byte, error) {
	if len(sealed) > maxSealedSize {
		return nil, errors.New("is larger than any sealed key")
	}
	file, err := io.ReadAll(armor.NewReader(strings.NewReader(sealed)))
	if err != nil {
		return nil, errNoAgeFile
	}
	return file, nil
}

// Open decrypts what Seal made. Identities of ParseIdentities try the stanzas of native recipients alone, of which an
// age file has 1024 at most: no file makes this derive a key from a passphrase, or takes long.
func Open(sealed string, identities []age.Identity) ([]byte, error) {
	file, err := decode(sealed)
	if err != nil {
		return nil, err
	}
	r, err := age.Decrypt(bytes.NewReader(file), identities...)
	var noMatch *age.NoIdentityMatchError
	switch {
	case errors.As(err, &noMatch):
		return nil, errors.New("is sealed to none of the identities that were given")
	case err != nil:
		return nil, errNoAgeFile
	}
	plaintext, err := io.ReadAll(r)
	if err != nil {
		return nil, errors.New("is damaged: its content does not match its seal")
	}
	return plaintext, nil
}

// Opens tells whether one of the identities would open a sealed key. The key itself stays sealed.
func Opens(sealed string, identities []age.Identity) bool {
	file, err := decode(sealed)
	if err != nil {
		return false
	}
	header, err := age.ExtractHeader(bytes.NewReader(file))
	if err != nil {
		return false
	}
	fileKey, err := age.DecryptHeader(header, identities...)
	clear(fileKey)
	return err == nil
}

// CountRecipients returns to how many recipients a file is sealed, without opening it. It reads as far as that goes: a
// file that was cut off, that holds nothing, or that is sealed to what is no recipient of a config is an error.
func CountRecipients(sealed string) (int, error) {
	s, err := readStanzas(sealed)
	return s.classic + s.postQuantum, err
}

// Check tells whether a file is sealed to as many recipients, of the same kind. Who they are cannot be told: stanzas
// are anonymous.
func (r Recipients) Check(sealed string) error {
	s, err := readStanzas(sealed)
	if err != nil {
		return err
	}
	if n := s.classic + s.postQuantum; n != len(r.list) {
		return fmt.Errorf("is sealed to %d recipients, the config names %d", n, len(r.list))
	}
	if _, hybrid := r.list[0].(*age.HybridRecipient); hybrid != (s.postQuantum > 0) {
		return errors.New("is sealed to recipients of another kind, classic or post-quantum, than the config names")
	}
	return nil
}

// readStanzas reads what a file says without being opened; the zero stanzas with every error.
func readStanzas(sealed string) (stanzas, error) {
	file, err := decode(sealed)
	if err != nil {
		return stanzas{}, err
	}
	header, err := age.ExtractHeader(bytes.NewReader(file))
	if err != nil {
		return stanzas{}, errNoAgeFile
	}
	if len(file)-len(header) < minPayload {
		return stanzas{}, errors.New("is cut off: it holds no key")
	}
	var s stanzas
	_, err = age.Decrypt(bytes.NewReader(file), &s)
	switch {
	case err == nil || s == stanzas{}:
		return stanzas{}, errNoAgeFile
	case s.foreign > 0:
		return stanzas{}, errors.New("is sealed with a passphrase, an SSH key or a plugin, which no proxy opens")
	case s.classic > 0 && s.postQuantum > 0:
		return stanzas{}, errors.New("is sealed to classic and post-quantum recipients at once, which undoes the post-quantum protection")
	}
	return s, nil
}

// stanzas is an identity that opens nothing and remembers what it was asked about.
type stanzas struct{ classic, postQuantum, foreign int }

// Unwrap counts.
func (s *stanzas) Unwrap(all []*age.Stanza) ([]byte, error) {
	for _, stanza := range all {
		switch stanza.Type {
		case classicStanza:
			s.classic++
		case postQuantumStanza:
			s.postQuantum++
		default:
			s.foreign++
		}
	}
	return nil, age.ErrIncorrectIdentity
}
