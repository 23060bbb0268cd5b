// Package seal encrypts private keys to age recipients and opens them again. What leaves it is public: armored age
// files and digests of recipient lists. Keys exist in memory only, and no error quotes its input, since the input may
// be a key.
package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// Recipients is a list of age recipients, all classic (age1…) or all post-quantum (age1pq…).
type Recipients struct {
	list   []age.Recipient
	digest string
}

// ParseRecipients reads a list as a config holds it. An empty list, a secret key in place of a recipient, a mixture of
// classic and post-quantum recipients and recipients of age plugins (which would have to run a program) are errors; the
// index of the entry is named, its text is not.
func ParseRecipients(texts []string) (Recipients, error) {
	if len(texts) == 0 {
		return Recipients{}, errors.New("is empty; `meshless keygen` makes an age identity and prints its recipient (age1…)")
	}
	sorted := slices.Clone(texts)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	r := Recipients{digest: digest(sorted)}
	postQuantum := 0
	for i, text := range texts {
		recipient, err := parseRecipient(text)
		if err != nil {
			return Recipients{}, fmt.Errorf("entry %d %w", i, err)
		}
		if _, ok := recipient.(*age.HybridRecipient); ok {
			postQuantum++
		}
		if slices.Index(texts, text) == i {
			r.list = append(r.list, recipient)
		}
	}
	if postQuantum != 0 && postQuantum != len(texts) {
		return Recipients{}, errors.New("mixes post-quantum (age1pq…) and classic (age1…) recipients, which would undo the post-quantum protection; use one kind")
	}
	return r, nil
}

func parseRecipient(text string) (age.Recipient, error) {
	switch {
	case strings.Contains(strings.ToUpper(text), "AGE-SECRET-KEY-"):
		return nil, errors.New("is a secret key, not a recipient; consider it leaked, make a new one with `meshless keygen`, and write the recipient (age1…) here")
	case strings.HasPrefix(text, "age1pq1"):
		if r, err := age.ParseHybridRecipient(text); err == nil {
			return r, nil
		}
	case strings.HasPrefix(text, "age1"):
		if r, err := age.ParseX25519Recipient(text); err == nil {
			return r, nil
		}
	}
	return nil, errors.New("is not an age recipient (age1… or age1pq…); was it cut or mistyped?")
}

// digest is the lower-case hexadecimal SHA-256 of the sorted recipients, a line each. X25519 stanzas are anonymous, so
// a change of recipients can be told from it alone.
func digest(sorted []string) string {
	sum := sha256.Sum256([]byte(strings.Join(sorted, "\n") + "\n"))
	return hex.EncodeToString(sum[:])
}

// Digest names the list, whatever its order: the SHA-256 that stands beside what was sealed to it.
func (r Recipients) Digest() string { return r.digest }

// Seal encrypts to every recipient and returns an armored age file. Two calls never return the same text.
func (r Recipients) Seal(plaintext []byte) (string, error) {
	var out bytes.Buffer
	armored := armor.NewWriter(&out)
	w, err := age.Encrypt(armored, r.list...)
	if err != nil {
		return "", fmt.Errorf("sealing: %w", err)
	}
	if _, err := w.Write(plaintext); err != nil {
		return "", fmt.Errorf("sealing: %w", err)
	}
	if err := errors.Join(w.Close(), armored.Close()); err != nil {
		return "", fmt.Errorf("sealing: %w", err)
	}
	return out.String(), nil
}

// ParseIdentities reads an age identity file: AGE-SECRET-KEY-… lines, comments and empty lines. The error names no
// content.
func ParseIdentities(text string) ([]age.Identity, error) {
	identities, err := age.ParseIdentities(strings.NewReader(text))
	if err != nil {
		return nil, errors.New("is not an age identity file: lines AGE-SECRET-KEY-…, as `meshless keygen` writes them")
	}
	return identities, nil
}
