package seal_test

import (
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/meshless-dev/meshless/fn/seal"
)

func classic(t testing.TB) *age.X25519Identity {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

func hybrid(t testing.TB) *age.HybridIdentity {
	t.Helper()
	identity, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

func TestSealAndOpen(t *testing.T) {
	a, b, pq := classic(t), classic(t), hybrid(t)
	for name, test := range map[string]struct {
		recipients []string
		open, shut age.Identity
	}{
		"one":          {[]string{a.Recipient().String()}, a, b},
		"two":          {[]string{a.Recipient().String(), b.Recipient().String()}, b, classic(t)},
		"repeated":     {[]string{a.Recipient().String(), a.Recipient().String()}, a, b},
		"post-quantum": {[]string{pq.Recipient().String()}, pq, a},
	} {
		t.Run(name, func(t *testing.T) {
			recipients, err := seal.ParseRecipients(test.recipients)
			if err != nil {
				t.Fatal(err)
			}
			sealed, err := recipients.Seal([]byte("the key"))
			if err != nil {
				t.Fatal(err)
			}
			if plain, err := seal.Open(sealed, []age.Identity{test.open}); err != nil || string(plain) != "the key" {
				t.Errorf("opened %q, %v", plain, err)
			}
			if plain, err := seal.Open(sealed, []age.Identity{test.shut}); err == nil {
				t.Errorf("a foreign identity opened %q", plain)
			}
			if n, err := seal.CountRecipients(sealed); err != nil || n != recipients.Len() {
				t.Errorf("counted %d recipients, %v; want %d", n, err, recipients.Len())
			}
			damaged := strings.Replace(sealed, "\n-----END", "AAAA\n-----END", 1)
			if plain, err := seal.Open(damaged, []age.Identity{test.open}); err == nil {
				t.Errorf("opened a damaged file: %q", plain)
			}
		})
	}
}

func TestDigestIgnoresOrder(t *testing.T) {
	a, b := classic(t).Recipient().String(), classic(t).Recipient().String()
	digest := func(texts ...string) string {
		recipients, err := seal.ParseRecipients(texts)
		if err != nil {
			t.Fatal(err)
		}
		return recipients.Digest()
	}
	if digest(a, b) != digest(b, a, b) || digest(a, b) == digest(a) {
		t.Error("the digest must name the set of recipients, whatever its order")
	}
}

// A secret key in place of a recipient is refused and never echoed.
func TestRecipientsRefused(t *testing.T) {
	secret := classic(t)
	good := secret.Recipient().String()
	for name, test := range map[string]struct {
		texts []string
		want  string
	}{
		"none":            {nil, "is empty"},
		"secret":          {[]string{good, secret.String()}, "entry 1 is a secret key"},
		"lower-case":      {[]string{strings.ToLower(secret.String())}, "entry 0 is a secret key"},
		"hidden":          {[]string{"# " + secret.String()}, "is a secret key"},
		"mixed":           {[]string{good, hybrid(t).Recipient().String()}, "mixes post-quantum"},
		"cut":             {[]string{good[:40]}, "is not an age recipient"},
		"ssh":             {[]string{"ssh-ed25519 AAAA"}, "is not an age recipient"},
		"plugin":          {[]string{"age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t"}, "is not an age recipient"},
		"space":           {[]string{" " + good}, "is not an age recipient"},
		"post-quantum id": {[]string{hybrid(t).String()}, "is a secret key"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := seal.ParseRecipients(test.texts)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want an error with %q", err, test.want)
			}
			if text := strings.ToUpper(err.Error()); strings.Contains(text, "AGE-SECRET-KEY") || strings.Contains(text, secret.String()[20:]) {
				t.Error("the error quotes a secret key")
			}
		})
	}
	if _, err := seal.ParseIdentities(secret.String() + "x"); err == nil || strings.Contains(err.Error(), secret.String()[20:]) {
		t.Errorf("a damaged identity: %v", err)
	}
}

// FuzzCountRecipients: hostile state in Git gets an error, never a panic.
func FuzzCountRecipients(f *testing.F) {
	recipients, err := seal.ParseRecipients([]string{classic(f).Recipient().String()})
	if err != nil {
		f.Fatal(err)
	}
	sealed, err := recipients.Seal([]byte("x"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add("-----BEGIN AGE ENCRYPTED FILE-----\nYWdl\n-----END AGE ENCRYPTED FILE-----\n")
	stranger := classic(f)
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := seal.CountRecipients(text); (n > 0) == (err != nil) {
			t.Errorf("%d recipients and %v", n, err)
		}
		if plain, err := seal.Open(text, []age.Identity{stranger}); err == nil {
			t.Errorf("a stranger opened %q", plain)
		}
	})
}
