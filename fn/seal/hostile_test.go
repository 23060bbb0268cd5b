package seal_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/meshless-dev/meshless/fn/seal"
)

// armored is an age file of any bytes.
func armored(t testing.TB, file string) string {
	t.Helper()
	var out bytes.Buffer
	w := armor.NewWriter(&out)
	if _, err := w.Write([]byte(file)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

var (
	part = base64.RawStdEncoding.EncodeToString(make([]byte, 32))
	salt = base64.RawStdEncoding.EncodeToString(make([]byte, 16))
	// point is a share that X25519 takes, unlike the zeros of part.
	point = base64.RawStdEncoding.EncodeToString(append([]byte{9}, make([]byte, 31)...))
)

// file is an age file of these stanzas, whose MAC is wrong.
func file(stanzas string, payload int) string {
	return "age-encryption.org/v1\n" + stanzas + "--- " + part + "\n" + strings.Repeat("x", payload)
}

const (
	x25519Stanza = "-> X25519 %s\n%s\n"
	scryptStanza = "-> scrypt %s 30\n%s\n" // 2^30 rounds: a terabyte, and longer than any test
)

// Hostile age files end with an error that quotes nothing, at once, with the identities that a render or a proxy has:
// no passphrase is ever tried, nothing is read beyond its limit.
func TestHostileFiles(t *testing.T) {
	x, scrypt := fmt.Sprintf(x25519Stanza, point, part), fmt.Sprintf(scryptStanza, salt, part)
	mine, pq := classic(t), hybrid(t)
	identities, err := seal.ParseIdentities(mine.String() + "\n" + pq.String() + "\n")
	if err != nil {
		t.Fatal(err)
	}
	recipients, err := seal.ParseRecipients([]string{mine.Recipient().String()})
	if err != nil {
		t.Fatal(err)
	}
	good, err := recipients.Seal([]byte("the key"))
	if err != nil {
		t.Fatal(err)
	}
	large, err := recipients.Seal(make([]byte, 2<<20))
	if err != nil {
		t.Fatal(err)
	}
	ssh := "-> ssh-ed25519 AAAA " + part + "\n" + part + "\n"
	hybridStanza := "-> mlkem768x25519 " + part + "\n" + part + "\n"
	for name, test := range map[string]struct{ text, count, open string }{
		"empty":                  {"", "is not an armored age file", "is not an armored age file"},
		"binary":                 {file(x, 100), "is not an armored age file", "is not an armored age file"},
		"a secret":               {"SECRET" + strings.Repeat("x", 100), "is not an armored age file", "is not an armored age file"},
		"a secret, armored":      {armored(t, "SECRET"+strings.Repeat("x", 100)), "is not an armored age file", "is not an armored age file"},
		"a secret as a stanza":   {armored(t, file("-> X25519 "+part+"\nSECRET!\n", 100)), "is not an armored age file", "is not an armored age file"},
		"no end":                 {good[:strings.Index(good, "-----END")], "is not an armored age file", "is not an armored age file"},
		"cut":                    {good[:len(good)/2], "is not an armored age file", "is not an armored age file"},
		"text behind":            {good + "SECRET", "is not an armored age file", "is not an armored age file"},
		"two files":              {good + good, "is not an armored age file", "is not an armored age file"},
		"header alone":           {armored(t, file(x, 0)), "is cut off: it holds no key", "is sealed to none of the identities"},
		"no plaintext":           {armored(t, file(x, 32)), "is cut off: it holds no key", "is sealed to none of the identities"},
		"no stanza":              {armored(t, file("", 100)), "is not an armored age file", "is not an armored age file"},
		"a passphrase":           {armored(t, file(scrypt, 100)), "is sealed with a passphrase", "is sealed to none of the identities"},
		"a passphrase beside":    {armored(t, file(scrypt+x, 100)), "is sealed with a passphrase", "is sealed to none of the identities"},
		"an SSH key":             {armored(t, file(ssh, 100)), "an SSH key", "is sealed to none of the identities"},
		"an unknown kind":        {armored(t, file("-> grease\n"+part+"\n", 100)), "or a plugin", "is sealed to none of the identities"},
		"both kinds":             {armored(t, file(x+hybridStanza, 100)), "is sealed to classic and post-quantum recipients at once", ""},
		"a thousand":             {armored(t, file(strings.Repeat(x, 1000), 100)), "", "is sealed to none of the identities"},
		"more than age takes":    {armored(t, file(strings.Repeat(x, 1025), 100)), "is not an armored age file", "is not an armored age file"},
		"a low-order point":      {armored(t, file("-> X25519 "+part+"\n"+part+"\n", 100)), "", "is not an armored age file"},
		"a huge line":            {armored(t, file("-> X25519 "+strings.Repeat("A", 700_000)+"\n"+part+"\n", 100)), "", ""},
		"10 MiB":                 {good + strings.Repeat("\n", 10<<20), "is larger than any sealed key", "is larger than any sealed key"},
		"a sealed key of 2 MiB":  {large, "is larger than any sealed key", "is larger than any sealed key"},
		"spaces in front of all": {strings.Repeat(" \n", 600) + good, "is not an armored age file", "is not an armored age file"},
	} {
		t.Run(name, func(t *testing.T) {
			_, counted := seal.CountRecipients(test.text)
			plain, opened := seal.Open(test.text, identities)
			if plain != nil || opened == nil || seal.Opens(test.text, identities) {
				t.Errorf("opened %d bytes, %v", len(plain), opened)
			}
			for what, pair := range map[string]struct {
				err  error
				want string
			}{"counting": {counted, test.count}, "opening": {opened, test.open}} {
				if pair.want != "" && (pair.err == nil || !strings.Contains(pair.err.Error(), pair.want)) {
					t.Errorf("%s: %v, want %q", what, pair.err, pair.want)
				}
				if pair.err != nil && (strings.Contains(pair.err.Error(), "SECRET") || len(pair.err.Error()) > 200) {
					t.Errorf("%s: an error quotes what it read", what)
				}
			}
		})
	}
	if !seal.Opens(good, identities) || seal.Opens(good, identities[1:]) {
		t.Error("who opens a good file is not told")
	}
}

// A file is sealed to as many recipients as the config names, and to the same kind.
func TestCheck(t *testing.T) {
	a, b, pq := classic(t).Recipient().String(), classic(t).Recipient().String(), hybrid(t).Recipient().String()
	of := func(texts ...string) (seal.Recipients, string) {
		recipients, err := seal.ParseRecipients(texts)
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := recipients.Seal([]byte("the key"))
		if err != nil {
			t.Fatal(err)
		}
		return recipients, sealed
	}
	one, sealed := of(a)
	two, sealedToTwo := of(a, b)
	quantum, sealedToQuantum := of(pq)
	for name, test := range map[string]struct {
		recipients seal.Recipients
		sealed     string
		want       string
	}{
		"one":               {one, sealed, ""},
		"two":               {two, sealedToTwo, ""},
		"post-quantum":      {quantum, sealedToQuantum, ""},
		"one for two":       {two, sealed, "is sealed to 1 recipients, the config names 2"},
		"two for one":       {one, sealedToTwo, "is sealed to 2 recipients, the config names 1"},
		"classic for other": {quantum, sealed, "is sealed to recipients of another kind"},
		"other for classic": {one, sealedToQuantum, "is sealed to recipients of another kind"},
		"nothing":           {one, "", "is not an armored age file"},
	} {
		if err := test.recipients.Check(test.sealed); (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

// Identities are those of age alone: what would ask for a passphrase or start a program is refused, and never quoted.
func TestIdentitiesRefused(t *testing.T) {
	good := classic(t).String()
	for name, text := range map[string]string{
		"none": "", "comments alone": "# nothing\n\n", "a recipient": classic(t).Recipient().String(), "a passphrase": "correct horse battery staple",
		"a plugin": "AGE-PLUGIN-YUBIKEY-1QWT50D05NH5VUTPDZM", "an SSH key": "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
		"lower case half": good[:40] + strings.ToLower(good[40:]), "cut": good[:len(good)-1], "a good one and a cut one": good + "\n" + good[:50] + "\n", "a file that is sealed": armored(t, file(fmt.Sprintf(scryptStanza, salt, part), 100)),
		"not UTF-8": good + "\n\xff\xfe\n", "indented": " " + good,
	} {
		identities, err := seal.ParseIdentities(text)
		if err == nil || identities != nil || !strings.Contains(err.Error(), "`meshless keygen` writes them") || strings.Contains(err.Error(), good[20:40]) {
			t.Errorf("%s: %d identities, %v", name, len(identities), err)
		}
	}
	if identities, err := seal.ParseIdentities("# one\r\n" + good + "\r\n\r\n" + hybrid(t).String() + "\r\n"); err != nil || len(identities) != 2 {
		t.Errorf("a file with several keys: %d identities, %v", len(identities), err)
	}
}

// FuzzOpen: of all texts, those that our recipients were sealed to open, and nothing else. What can be opened can be
// counted.
func FuzzOpen(f *testing.F) {
	mine, pq := classic(f), hybrid(f)
	identities := []age.Identity{mine, pq}
	for _, recipient := range []string{mine.Recipient().String(), pq.Recipient().String()} {
		recipients, err := seal.ParseRecipients([]string{recipient})
		if err != nil {
			f.Fatal(err)
		}
		sealed, err := recipients.Seal([]byte("the key"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(sealed, false)
		f.Add(strings.ReplaceAll(sealed, "\n", "\r\n"), false)
	}
	f.Add(file(fmt.Sprintf(x25519Stanza, point, part), 100), true)
	f.Add(file(fmt.Sprintf(scryptStanza, salt, part), 100), true)
	f.Add(file("-> mlkem768x25519 "+part+"\n"+part+"\n", 100), true)
	f.Fuzz(func(t *testing.T, text string, wrap bool) {
		if wrap {
			text = armored(t, text)
		}
		n, counted := seal.CountRecipients(text)
		if (n > 0) == (counted != nil) {
			t.Errorf("%d recipients and %v", n, counted)
		}
		plain, err := seal.Open(text, identities)
		switch {
		case err == nil && string(plain) != "the key":
			t.Errorf("opened %q, which nobody sealed", plain)
		case err == nil && (counted != nil || !seal.Opens(text, identities)):
			t.Errorf("opened, and %v", counted)
		case err != nil && (plain != nil || len(err.Error()) > 200):
			t.Errorf("refused with %d bytes: %v", len(plain), err)
		}
	})
}

// FuzzParse: texts of recipients and identities are refused or mean what they say, and no refusal quotes one.
func FuzzParse(f *testing.F) {
	secret, pq := classic(f), hybrid(f)
	for _, text := range []string{secret.String(), pq.String(), secret.Recipient().String(), pq.Recipient().String(), "age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t",
		strings.ToLower(secret.String()), "# c\n" + secret.String() + "\n" + pq.String(), "AGE-PLUGIN-X-1", "ssh-ed25519 AAAA"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		recipients, err := seal.ParseRecipients([]string{text})
		if err != nil {
			if recipients.Len() != 0 || len(text) > 12 && strings.Contains(err.Error(), text) {
				t.Errorf("refused with %d recipients, and quoted: %v", recipients.Len(), err)
			}
		} else if sealed, err := recipients.Seal([]byte("x")); err != nil || recipients.Check(sealed) != nil {
			t.Errorf("taken as a recipient, and nothing can be sealed to it: %v", err)
		}
		identities, err := seal.ParseIdentities(text)
		if (err == nil) == (len(identities) == 0) || err != nil && len(err.Error()) > 200 {
			t.Errorf("%d identities and %v", len(identities), err)
		}
		for _, identity := range identities {
			switch identity.(type) {
			case *age.X25519Identity, *age.HybridIdentity:
			default:
				t.Errorf("an identity of type %T, which may ask for a passphrase or start a program", identity)
			}
		}
	})
}
