package verify_test

import (
	"encoding/base64"
	"regexp"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/verify"
)

// With the format SOPS a key is sealed when the real sops could open it, and pods take it from the Secret as a plain
// file, without an age identity.
func TestCheckSOPS(t *testing.T) {
	good := renderedWith(t, func(spec *v1alpha1.Spec) {
		spec.Sealing.Format, spec.Sealing.IdentitySecret = v1alpha1.SealingSOPS, v1alpha1.SecretKey{}
	})
	edit := func(pattern, with string) string { // of the first match, which is of deployment web
		found := regexp.MustCompile(pattern).FindStringIndex(good)
		if found == nil {
			t.Fatalf("nothing matches %q", pattern)
		}
		return good[:found[0]] + with + good[found[1]:]
	}
	encode := base64.StdEncoding.EncodeToString
	const keyItem, leafItems = "              - key: tls.key\n                path: tls.key\n", "              - key: tls.crt\n                path: tls.crt\n"
	const identitySource = "          - secret:\n              items:\n              - key: identity.txt\n                path: identity.txt\n              name: meshless-identity\n"
	for name, test := range map[string]struct{ text, want string }{
		"untouched":            {good, ""},
		"key decrypted":        {edit(`tls\.key: ENC.*`, "tls.key: "+encode([]byte("-----BEGIN PRIVATE KEY-----\n"))), "data[tls.key]: holds a private key in the clear"},
		"key another text":     {edit(`tls\.key: ENC.*`, "tls.key: "+encode([]byte("x"))), "data[tls.key]: is not encrypted by SOPS (ENC[AES256_GCM,…]); restore the Secret from Git"},
		"key gone":             {edit(`  tls\.key: ENC.*\n`, ""), "data[tls.key]: is not encrypted by SOPS"},
		"key beside":           {edit(`data:\n  tls\.crt`, "stringData: {other: '-----BEGIN PRIVATE KEY-----'}\ndata:\n  tls.crt"), "data[other]: holds a private key in the clear"},
		"metadata lost":        {edit(`(?s)\nsops:\n.*?version: [0-9.]+\n`, "\n"), "data[tls.key]: cannot be decrypted, since the field sops beside data is missing; restore"},
		"recipients lost":      {edit(`(?s)  age:\n.*?  lastmodified`, "  lastmodified"), "sops.age names nobody"},
		"MAC over everything":  {edit(`  mac_only_encrypted: true\n`, ""), "needs sops.mac_only_encrypted: true"},
		"certificate as well":  {edit(`tls\.crt: .*`, "tls.crt: ENC[AES256_GCM,data:AA==,iv:AA==,tag:AA==,type:str]"), "data[tls.crt]: is encrypted by SOPS, and must be read without a key"},
		"both formats":         {edit(`  tls\.key: ENC`, "  tls.key.age: aGk=\n  tls.key: ENC"), "holds a key of two formats, tls.key.age and tls.key"},
		"key not mounted":      {strings.Replace(good, keyItem, "", 1), "from one Secret"},
		"mounts an age file":   {strings.Replace(good, keyItem, strings.ReplaceAll(keyItem, "tls.key", "tls.key.age"), 1), `takes tls.key.age from secret "meshless-deployment-web", which holds tls.key`},
		"mounts an identity":   {strings.Replace(good, "          sources:\n", "          sources:\n"+identitySource, 1), "mounts an age identity (identity.txt) beside tls.key"},
		"somebody else's SOPS": {good + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: x, namespace: prod}\ndata: {a: 'ENC[AES256_GCM,data:AA==]'}\nsops: {mac: a}\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if test.want != "" && test.text == good || !strings.Contains(good, leafItems+keyItem) {
				t.Fatal("the rendered manifests are not as this test knows them")
			}
			r := &report.Report{}
			verify.Check(parse(t, test.text), verify.Options{Now: now, EveryWorkload: true, Kinds: manifest.KindsOf(v1alpha1.Spec{})}, r)
			said := strings.Join(r.Errors(), "\n")
			if (test.want == "") != (said == "") || !strings.Contains(said, test.want) {
				t.Errorf("got %q, want %q", said, test.want)
			}
		})
	}
}

// A pod that was rendered for SOPS beside a Secret that holds an age file starts no proxy.
func TestCheckFormatOfAnotherRender(t *testing.T) {
	age := rendered(t)
	text := strings.Replace(age, "              - key: tls.key.age\n                path: tls.key.age\n", "              - key: tls.key\n                path: tls.key\n", 1)
	if text == age {
		t.Fatal("the rendered manifests are not as this test knows them")
	}
	r := &report.Report{}
	verify.Check(parse(t, text), verify.Options{Now: now, EveryWorkload: true, Kinds: manifest.KindsOf(v1alpha1.Spec{})}, r)
	if said := strings.Join(r.Errors(), "\n"); !strings.Contains(said, `takes tls.key from secret "meshless-deployment-web", which holds tls.key.age; render the whole package again`) {
		t.Errorf("got %q", said)
	}
}
