package seal_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/seal"
	"github.com/meshless-dev/meshless/test/sopstest"
)

var sopsTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// sopsSecret is a Secret whose tls.key is sealed to the recipients.
func sopsSecret(t testing.TB, plaintext string, recipients ...string) *yaml.RNode {
	t.Helper()
	to, err := seal.ParseRecipients(recipients)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := to.SealSOPS([]string{"data", "tls.key"}, []byte(plaintext), sopsTime)
	if err != nil {
		t.Fatal(err)
	}
	secret := yaml.MustParse("apiVersion: v1\nkind: Secret\nmetadata:\n  name: web\ndata:\n  tls.crt: aGk=\n")
	node.Set(node.Get(secret.YNode(), "data"), "tls.key", node.Text(sealed.Value))
	node.Set(secret.YNode(), seal.SOPSField, sealed.Metadata)
	return secret
}

func openSOPS(secret *yaml.RNode, identities ...age.Identity) (string, error) {
	plaintext, err := sopstest.Open(secret.YNode(), identities, "data", "tls.key")
	return string(plaintext), err
}

// Each recipient opens it alone, classic or post-quantum; nobody else does. test/sops does the same with the real
// programs.
func TestSOPSRoundTrip(t *testing.T) {
	a, b, other := classic(t), classic(t), classic(t)
	quantum := hybrid(t)
	const plaintext = "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0t"
	for name, test := range map[string]struct {
		recipients []string
		opens      []age.Identity
	}{
		"one":          {[]string{a.Recipient().String()}, []age.Identity{a}},
		"two":          {[]string{b.Recipient().String(), a.Recipient().String()}, []age.Identity{a, b}},
		"post-quantum": {[]string{quantum.Recipient().String()}, []age.Identity{quantum}},
	} {
		t.Run(name, func(t *testing.T) {
			secret := sopsSecret(t, plaintext, test.recipients...)
			for _, identity := range test.opens {
				if got, err := openSOPS(secret, identity); err != nil || got != plaintext {
					t.Errorf("opened %q, %v", got, err)
				}
			}
			if _, err := openSOPS(secret, other); err == nil || !strings.Contains(err.Error(), "none of the identities") {
				t.Errorf("a stranger: %v", err)
			}
			recipients, err := seal.ReadSOPS(secret.YNode(), "data", "tls.key")
			want, _ := seal.ParseRecipients(test.recipients)
			if err != nil || !want.Are(recipients) {
				t.Errorf("read %v, %v", recipients, err)
			}
			stranger, _ := seal.ParseRecipients([]string{other.Recipient().String()})
			if stranger.Are(recipients) || want.Are(append(recipients, other.Recipient().String())) || want.Are(nil) {
				t.Error("other recipients are taken for these")
			}
			if text := secret.MustString(); strings.Contains(text, plaintext) {
				t.Error("the plaintext is in the Secret")
			}
		})
	}
}

// Two sealings of one key have nothing in common: neither data key nor nonce is ever used again.
func TestSOPSIsNeverTheSame(t *testing.T) {
	recipient := classic(t).Recipient().String()
	a, b := sopsSecret(t, "same", recipient), sopsSecret(t, "same", recipient)
	for _, path := range [][]string{{"data", "tls.key"}, {"sops", "mac"}} {
		if node.Get(a.YNode(), path...).Value == node.Get(b.YNode(), path...).Value {
			t.Errorf("%v is the same twice", path)
		}
	}
}

// What `sops` could not decrypt, or not once kustomize has edited the metadata, is refused with the reason.
func TestReadSOPSRefuses(t *testing.T) {
	identity := classic(t)
	good := sopsSecret(t, "the key", identity.Recipient().String()).MustString()
	edit := func(pattern, with string) string {
		out := regexp.MustCompile(pattern).ReplaceAllString(good, with)
		if out == good {
			t.Fatalf("nothing matches %q in\n%s", pattern, good)
		}
		return out
	}
	for name, test := range map[string]struct{ text, want string }{
		"untouched":                {good, ""},
		"metadata lost":            {edit(`(?s)sops:.*`, ""), "the field sops beside data is missing"},
		"metadata no mapping":      {edit(`(?s)sops:.*`, "sops: [a]\n"), "the field sops beside data is missing"},
		"value lost":               {edit(`  tls.key: .*\n`, ""), "is not encrypted by SOPS"},
		"value in the clear":       {edit(`tls.key: .*`, "tls.key: aGk="), "is not encrypted by SOPS"},
		"value cut":                {edit(`,tag:[^,]*(,type:str\]\n  |,type:str\]\nsops)`, "$1"), "is not encrypted by SOPS"},
		"value no base64":          {edit(`tls.key: ENC\[AES256_GCM,data:`, "tls.key: ENC[AES256_GCM,data:="), "is not encrypted by SOPS"},
		"value of another type":    {edit(`type:str\]\nsops`, "type:int]\nsops"), "is not encrypted by SOPS"},
		"value a list":             {edit(`tls.key: .*`, "tls.key: []"), "is not encrypted by SOPS"},
		"MAC lost":                 {edit(`  mac: .*\n`, ""), "sops.mac is no MAC"},
		"MAC in the clear":         {edit(`  mac: .*`, "  mac: 00"), "sops.mac is no MAC"},
		"date lost":                {edit(`  lastmodified: .*\n`, ""), "sops.lastmodified is missing"},
		"date no date":             {edit(`  lastmodified: .*`, "  lastmodified: today"), "sops.lastmodified is no date"},
		"MAC over everything":      {edit(`  mac_only_encrypted: .*\n`, ""), "needs sops.mac_only_encrypted: true"},
		"no rule":                  {edit(`  encrypted_regex: .*\n`, ""), "needs sops.encrypted_regex"},
		"rule of all data":         {edit(`encrypted_regex: .*`, "encrypted_regex: ^(data|stringData)$$"), "needs sops.encrypted_regex"},
		"rule of another value":    {edit(`encrypted_regex: .*`, "encrypted_regex: ^other$$"), "needs sops.encrypted_regex"},
		"rule that is none":        {edit(`encrypted_regex: .*`, "encrypted_regex: '('"), "needs sops.encrypted_regex"},
		"rule of both values":      {edit(`encrypted_regex: .*`, "encrypted_regex: ^tls"), "tls.crt is too"},
		"another rule":             {edit(`encrypted_regex: .*`, "encrypted_suffix: .key"), "is encrypted by sops.encrypted_suffix"},
		"certificate as well":      {edit(`tls.crt: .*`, "tls.crt: ENC[AES256_GCM]"), "tls.crt is too"},
		"nobody":                   {edit(`(?s)  age:.*  lastmodified`, "  lastmodified"), "sops.age names nobody"},
		"recipient lost":           {edit(`recipient:`, "owner:"), "sops.age[0] lacks its recipient"},
		"data key lost":            {edit(`-----BEGIN AGE`, "-----BEGIN PGP"), "sops.age[0].enc is no age file"},
		"data key of another kind": {edit(`recipient: .*`, "recipient: "+hybrid(t).Recipient().String()), "sops.age[0].enc is no age file for its recipient"},
		"recipient of a plugin":    {edit(`recipient: .*`, "recipient: age1yubikey1qq"), "is encrypted to sops.age[0], which is no native recipient"},
		"a cloud's key as well":    {edit(`  lastmodified:`, "  kms:\n  - arn: a\n  lastmodified:"), "is encrypted to sops.kms"},
		"empty lists of others":    {edit(`  lastmodified:`, "  kms: []\n  pgp: []\n  lastmodified:"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := seal.ReadSOPS(yaml.MustParse(test.text).YNode(), "data", "tls.key")
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// A value that was moved, exchanged or changed does not open: its place and its date are part of the seal.
func TestOpenSOPSRefusesOthersValues(t *testing.T) {
	identity := classic(t)
	good, other := sopsSecret(t, "the key", identity.Recipient().String()), sopsSecret(t, "another", identity.Recipient().String())
	exchange := func(path ...string) *yaml.RNode {
		secret := good.Copy()
		*node.Get(secret.YNode(), path...) = *node.Get(other.YNode(), path...)
		return secret
	}
	later := good.Copy()
	node.Get(later.YNode(), "sops", "lastmodified").Value = "2026-03-01T12:00:01Z"
	moved := good.Copy()
	data := node.Get(moved.YNode(), "data")
	node.Set(moved.YNode(), "stringData", node.Object("tls.key", node.Get(data, "tls.key")))
	for name, read := range map[string]func() (string, error){
		"another's value": func() (string, error) { return openSOPS(exchange("data", "tls.key"), identity) },
		"another's MAC":   func() (string, error) { return openSOPS(exchange("sops", "mac"), identity) },
		"another's keys":  func() (string, error) { return openSOPS(exchange("sops", "age"), identity) },
		"another date":    func() (string, error) { return openSOPS(later, identity) },
		"another place": func() (string, error) {
			plaintext, err := sopstest.Open(moved.YNode(), []age.Identity{identity}, "stringData", "tls.key")
			return string(plaintext), err
		},
	} {
		if got, err := read(); err == nil || got != "" {
			t.Errorf("%s: opened %q", name, got)
		}
	}
	if got, err := openSOPS(good, identity); err != nil || got != "the key" {
		t.Errorf("untouched: %q, %v", got, err)
	}
}

// FuzzReadSOPS: whatever stands in Git, reading it neither panics nor opens.
func FuzzReadSOPS(f *testing.F) {
	identity := classic(f)
	f.Add(sopsSecret(f, "the key", identity.Recipient().String()).MustString())
	f.Add("data: {tls.key: 'ENC[AES256_GCM,data:AA==,iv:AA==,tag:AA==,type:str]'}\nsops: {age: [{}], mac: 1}\n")
	f.Add("data: []\nsops: {age: a}\n")
	stranger := classic(f)
	f.Fuzz(func(t *testing.T, text string) {
		object, err := yaml.Parse(text)
		if err != nil || node.CheckItem(object) != nil {
			return
		}
		recipients, err := seal.ReadSOPS(object.YNode(), "data", "tls.key")
		if (err == nil) != (len(recipients) > 0) {
			t.Errorf("read %v with %v", recipients, err)
		}
		if plaintext, err := openSOPS(object, stranger); err == nil {
			t.Errorf("a stranger opened %q", plaintext)
		}
	})
}
