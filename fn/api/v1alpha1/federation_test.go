package v1alpha1_test

import (
	"crypto/x509"
	"encoding/json"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/testca"
)

// federationConfig is a config with one entry for each pair of a trust domain and a bundle, and more fields for the
// first entry.
func federationConfig(more string, pairs ...string) string {
	var out strings.Builder
	out.WriteString(head + "  federation:\n")
	for i := 0; i+1 < len(pairs); i += 2 {
		out.WriteString("  - trustDomain: " + pairs[i] + "\n    bundle: |\n      " + strings.ReplaceAll(strings.TrimSpace(pairs[i+1]), "\n", "\n      ") + "\n")
		if i == 0 {
			out.WriteString(more)
		}
	}
	return out.String()
}

func document(t *testing.T, cas ...*testca.CA) string {
	t.Helper()
	b := spiffebundle.New(spiffeid.RequireTrustDomainFromString("other.example"))
	for _, ca := range cas {
		b.AddX509Authority(ca.Certificate)
	}
	if err := b.AddJWTAuthority("key", cas[0].Certificate.PublicKey); err != nil { // as SPIRE's bundles have
		t.Fatal(err)
	}
	data, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestFederation(t *testing.T) {
	one, two := testca.New(t, "other.example"), testca.New(t, "other.example")
	third := testca.New(t, "third.example")
	for name, text := range map[string]string{"PEM": string(one.PEM()) + string(two.PEM()), "SPIFFE bundle": document(t, one, two)} {
		config, err := v1alpha1.Load(yaml.MustParse(federationConfig("    cidrs: [10.7.0.0/16, fd07::/16]\n    identities: [\"spiffe://other.example/ns/*/*/*\"]\n", "other.example", text, "third.example", string(third.PEM())) +
			"  authorization: {rules: [{to: {name: a}, from: [{spiffeID: spiffe://other.example/ns/a/b/*}, {spiffeID: spiffe://third.example/x}, {spiffeID: spiffe://cluster.local/x}]}]}\n"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		entry, err := config.Spec.Federation[0].Mesh()
		if err != nil || entry.Bundle != string(one.PEM())+string(two.PEM()) || entry.TrustDomain != "other.example" || len(entry.CIDRs) != 2 || len(entry.Identities) != 1 {
			t.Errorf("%s: the map gets %+v, %v", name, entry, err)
		}
	}
}

func TestFederationRefuses(t *testing.T) {
	ca := testca.New(t, "other.example")
	nameless := testca.New(t, "", func(c *x509.Certificate) { c.URIs = nil })
	good, leaf := string(ca.PEM()), ca.Issue(t, "spiffe://other.example/web")
	doc := document(t, ca)
	edit := func(change func(keys []any) []any) string {
		var parsed map[string]any
		if err := json.Unmarshal([]byte(doc), &parsed); err != nil {
			t.Fatal(err)
		}
		parsed["keys"] = change(parsed["keys"].([]any))
		text, err := json.Marshal(parsed)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	set := func(key string, value any) func([]any) []any {
		return func(keys []any) []any { keys[0].(map[string]any)[key] = value; return keys }
	}
	for name, c := range map[string]struct{ config, want string }{
		"our own":                 {federationConfig("", "cluster.local", string(testca.New(t, "cluster.local").PEM())), `spec.federation[0].trustDomain: "cluster.local" is our own`},
		"twice":                   {federationConfig("", "other.example", good, "other.example", string(testca.New(t, "other.example").PEM())), "spec.federation[1].trustDomain: \"other.example\" is federated twice"},
		"no trust domain":         {federationConfig("", "Other_Example!", good), "is not the name of a SPIFFE trust domain"},
		"no bundle":               {head + "  federation: [{trustDomain: other.example}]\n", "spec.federation[0].bundle: is missing"},
		"another's bundle":        {federationConfig("", "third.example", good), "which names spiffe://other.example"},
		"a bundle for two":        {federationConfig("", "other.example", string(nameless.PEM()), "third.example", string(nameless.PEM())), "must not be mixed"},
		"a key for two":           {federationConfig("", "other.example", string(nameless.PEM()), "third.example", string(nameless.Again(t).PEM())), "must not be mixed"},
		"a certificate twice":     {federationConfig("", "other.example", good+good), "twice"},
		"a leaf":                  {federationConfig("", "other.example", string(svid.EncodeCertificates(leaf.Leaf))), "not a CA certificate"},
		"a private key":           {federationConfig("", "other.example", good+string(testca.KeyPEM(t, leaf))), "not a certificate"},
		"text":                    {federationConfig("", "other.example", "https://other.example/bundle"), "not PEM"},
		"no JSON":                 {federationConfig("", "other.example", "{keys: []}"), "is no SPIFFE bundle"},
		"text behind JSON":        {federationConfig("", "other.example", doc+"{}"), "is no SPIFFE bundle: has text behind its end"},
		"no keys":                 {federationConfig("", "other.example", "{}"), "is no SPIFFE bundle"},
		"JWT keys alone":          {federationConfig("", "other.example", edit(func(keys []any) []any { return keys[1:] })), "holds no key of use x509-svid"},
		"JWK twice":               {federationConfig("", "other.example", edit(func(keys []any) []any { return append(keys, keys[0]) })), "holds a certificate twice"},
		"JWK with a private key":  {federationConfig("", "other.example", edit(set("d", "AAAA"))), "holds a private key"},
		"JWK without certificate": {federationConfig("", "other.example", edit(set("x5c", []any{}))), "is no SPIFFE bundle"},
		"JWK of another key":      {federationConfig("", "other.example", edit(set("x", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"))), "is no SPIFFE bundle"},
		"unknown field":           {federationConfig("    cidr: []\n", "other.example", good), `unknown field "spec.federation[0].cidr"`},
		"host bits":               {federationConfig("    cidrs: [10.7.0.1/16]\n", "other.example", good), "spec.federation[0].cidrs[0]: 10.7.0.1/16 has host bits set"},
		"IPv4 in IPv6":            {federationConfig("    cidrs: [\"::ffff:10.7.0.0/112\"]\n", "other.example", good), "write it as an IPv4 network, 10.7.0.0/16"},
		"meshCIDRs":               {federationConfig("    cidrs: [10.7.0.0/16]\n", "other.example", good) + "  outbound: {meshCIDRs: [10.0.0.0/8]}\n", "of outbound.meshCIDRs"},
		"meshCIDRs in IPv6":       {head + "  outbound: {meshCIDRs: [\"::ffff:10.7.0.0/112\"]}\n", "spec.outbound.meshCIDRs[0]"},
		"excludeCIDRs":            {federationConfig("    cidrs: [10.7.0.0/16]\n", "other.example", good) + "  outbound: {excludeCIDRs: [10.7.9.0/24]}\n", "bypasses the proxy"},
		"identities alone":        {federationConfig("    identities: [spiffe://other.example/web]\n", "other.example", good), "there are none"},
		"identity of another":     {federationConfig("    cidrs: [10.7.0.0/16]\n    identities: [spiffe://cluster.local/web]\n", "other.example", good), "is not of trust domain"},
		"rule for nobody":         {head + "  authorization: {rules: [{to: {name: a}, from: [{spiffeID: spiffe://other.example/b}]}]}\n", "spec.authorization.rules[0].from[0].spiffeID: pattern \"spiffe://other.example/b\": trust domain \"other.example\" is neither ours"},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := v1alpha1.Load(yaml.MustParse(c.config))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v and %v, want an error with %q", config != nil, err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "PRIVATE KEY") {
				t.Error("the error quotes its input")
			}
		})
	}
}

// FuzzFederationBundle: whatever text somebody pastes, it is an error, or certificates that the mesh map holds in the
// one form that the proxies read.
func FuzzFederationBundle(f *testing.F) {
	ca := testca.New(f, "other.example")
	b := spiffebundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString("other.example"), []*x509.Certificate{ca.Certificate})
	document, err := b.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(ca.PEM()))
	f.Add(string(document))
	f.Add(`{"keys":[{"use":"x509-svid","kty":"oct","k":"AAAA"},{"use":"x509-svid"}]}`)
	f.Add(`{"keys":null}`)
	f.Fuzz(func(t *testing.T, text string) {
		entry, err := v1alpha1.Federation{TrustDomain: "other.example", Bundle: text}.Mesh()
		if err != nil {
			return
		}
		certificates, err := svid.ParseCertificates([]byte(entry.Bundle))
		if err != nil || len(certificates) == 0 {
			t.Errorf("what was accepted is not what the map can hold: %v\n%s", err, entry.Bundle)
		}
		for _, c := range certificates {
			if !c.Equal(ca.Certificate) && !strings.Contains(text, "CERTIFICATE") && !strings.Contains(text, "x5c") {
				t.Errorf("a certificate out of nowhere: %s", c.Subject)
			}
		}
	})
}
