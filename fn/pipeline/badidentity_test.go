package pipeline_test

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/seal"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

// TestIdentities: which identity opens what, and what is said when it does not. The recipients of the CA change in the
// first period, so that Active and Next are sealed to different ones in the second.
func TestIdentities(t *testing.T) {
	w := newWorld(t)
	old, other := w.ca, newIdentity(t)
	first := w.config(t, plainConfig)
	items, _ := w.mustRun(t, parse(t, twoDeployments), first)
	w.ca = other
	changed := w.config(t, plainConfig)
	w.ca = old
	for w.now = start; w.now.Before(start.Add(2160 * time.Hour)); w.now = w.now.Add(300 * time.Hour) {
		items, _ = w.mustRun(t, items, changed)
	}
	w.now = start.Add(2170 * time.Hour) // Next has become Active, and its successor is sealed to the new recipients
	items, _ = w.mustRun(t, items, changed)
	more := append(copies(items), parse(t, oneMore)...)
	both, err := seal.ParseIdentities(fmt.Sprintf("# CI\n%s\n\n# the new one\n%s\n", old, other))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		identities []age.Identity
		fails      string
		says       string
		quiet      string
	}{
		"none":           {identities: []age.Identity{}, fails: "the certificate must be issued anew: it has none yet; but the key of certificateauthority mtls cannot be opened. Give the CA's age identity in MESHLESS_CA_IDENTITY"},
		"a stranger's":   {identities: []age.Identity{newIdentity(t)}, fails: "certificateauthority mtls: spec.authorities: the sealed key of the Active authority is sealed to none of the identities that were given; give the age identity"},
		"the cluster's":  {identities: []age.Identity{w.cluster}, fails: "is sealed to none of the identities that were given"},
		"a post-quantum": {identities: []age.Identity{newHybrid(t)}, fails: "is sealed to none of the identities that were given"},
		"the next one's": {identities: []age.Identity{other}, fails: "is sealed to none of the identities that were given"},
		"the old one":    {identities: []age.Identity{old}, says: "opens the key of the Active authority and not that of the Next, which signs later on. Give both"},
		"both":           {identities: both, quiet: "opens the key of the Active authority"},
		"and strangers":  {identities: []age.Identity{newIdentity(t), w.cluster, old, other}, quiet: "opens the key of the Active authority"},
	} {
		t.Run(name, func(t *testing.T) {
			out, r, _ := w.attempt(t, more, changed, issues, test.identities...)
			if test.identities != nil && len(test.identities) == 0 {
				out, r = w.without(t, more, changed)
			}
			switch text := said(t, r); {
			case test.fails != "" && (out != nil || !strings.Contains(text, test.fails)):
				t.Errorf("got %s, want the error %q", text, test.fails)
			case test.fails == "" && (r.Failed() || !strings.Contains(text, test.says) || test.quiet != "" && strings.Contains(text, test.quiet)):
				t.Errorf("got %s, want %q and not %q", text, test.says, test.quiet)
			}
		})
	}
}

// without renders when nobody gives an identity.
func (w *world) without(t testing.TB, items []*yaml.RNode, config *v1alpha1.MutualTLS) ([]*yaml.RNode, *report.Report) {
	t.Helper()
	bare := *w
	bare.noIdentity = true
	return bare.run(items, config)
}

func newHybrid(t testing.TB) *age.HybridIdentity {
	t.Helper()
	identity, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

// TestKeysExchanged: the sealed keys of Active and Next stand in each other's place. That is known only once the key is
// open, and nothing is signed with it then.
func TestKeysExchanged(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	good, _ := w.mustRun(t, parse(t, twoDeployments), config)
	w.now = start.Add(400 * time.Hour)
	broken := editAuthority(t, good, func(s *v1alpha1.CertificateAuthoritySpec) {
		a := s.Authorities
		a[0].SealedKey, a[1].SealedKey = a[1].SealedKey, a[0].SealedKey
	})
	if out, r, _ := w.attempt(t, broken, config, issues); out != nil || !strings.Contains(said(t, r), "the sealed key of the Active authority is the key of another certificate") {
		t.Errorf("got %s", said(t, r))
	}
	workload := secretKey(t, good)
	broken = editAuthority(t, good, func(s *v1alpha1.CertificateAuthoritySpec) { s.Authorities[0].SealedKey = workload })
	if out, r, _ := w.attempt(t, broken, config, issues); out != nil || !strings.Contains(said(t, r), "is sealed to none of the identities that were given") {
		t.Errorf("a workload's key as the CA's: %s", said(t, r))
	}
}

func secretKey(t testing.TB, items []*yaml.RNode) string {
	t.Helper()
	return decodeData(t, find(t, items, "Secret", "meshless-deployment-web"), api.SealedKeyFile)
}

// TestRetiredIsKept: a date in the past, written by hand, does not take the trust from an authority whose leaves are in
// use.
func TestRetiredIsKept(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	items, _ := w.mustRun(t, parse(t, twoDeployments), config)
	for ; !w.now.After(start.Add(2100 * time.Hour)); w.now = w.now.Add(350 * time.Hour) {
		items, _ = w.mustRun(t, items, config)
	}
	w.now = start.Add(2161 * time.Hour)
	items, _ = w.mustRun(t, items, config) // promotes; leaves are of the old one still
	edited := editAuthority(t, items, func(s *v1alpha1.CertificateAuthoritySpec) {
		s.Authorities[0].TrustedUntil = &metav1.Time{Time: w.now.Add(-time.Hour)}
	})
	out, r := w.mustRun(t, edited, config)
	if bundleOf(t, out) != bundleOf(t, items) || !strings.Contains(said(t, r), "its date was too early") {
		t.Errorf("the bundle changed, or nothing was said: %s", said(t, r))
	}
	if again, r := w.mustRun(t, out, config); text(t, again) != text(t, out) || strings.Contains(said(t, r), "its date was too early") {
		t.Errorf("what was mended is mended again: %s", said(t, r))
	}
}

// TestRevokedDatesAreNotBelieved: an entry whose date was set back is kept while a certificate with its key can be
// used.
func TestRevokedDatesAreNotBelieved(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	before, _ := w.mustRun(t, parse(t, twoDeployments), config)
	w.now = w.now.Add(time.Hour)
	w.revoke = []string{"deployment/web"}
	after, _ := w.mustRun(t, before, config)
	w.revoke = nil
	restored := exchangeItem(t, after, before, "Secret", "meshless-deployment-web")
	edited := editAuthority(t, restored, func(s *v1alpha1.CertificateAuthoritySpec) {
		s.Revoked[0].Until = metav1.Time{Time: w.now.Add(-time.Minute)}
	})
	out, _ := w.mustRun(t, edited, config)
	leaked := svid.KeyDigest(decodeLeaf(t, find(t, before, "Secret", "meshless-deployment-web")))
	if !slices.Contains(revokedKeys(t, out), leaked) || svid.KeyDigest(decodeLeaf(t, find(t, out, "Secret", "meshless-deployment-web"))) == leaked {
		t.Errorf("the key that leaked is trusted again; revoked are %v", revokedKeys(t, out))
	}
}

// TestManyRevoked: as many as bundles have room for are kept, and more are refused instead of written where no cluster
// would take them.
func TestManyRevoked(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	w := newWorld(t)
	config := w.config(t, plainConfig)
	good, _ := w.mustRun(t, parse(t, twoDeployments), config)
	with := func(n int) []*yaml.RNode {
		return editAuthority(t, good, func(s *v1alpha1.CertificateAuthoritySpec) {
			for i := range n {
				s.Revoked = append(s.Revoked, v1alpha1.RevokedKey{Key: fmt.Sprintf("%064x", i), SPIFFEID: "spiffe://cluster.local/x", Until: metav1.Time{Time: start.Add(time.Hour)}})
			}
		})
	}
	out, _ := w.mustRun(t, with(3500), config)
	if got := revokedKeys(t, out); len(got) != 3500 {
		t.Errorf("%d keys are revoked", len(got))
	}
	if size := len(find(t, out, "ConfigMap", "meshless-bundle").GetAnnotations()[api.RevokedAnnotation]); size > 250_000 {
		t.Errorf("an annotation of %d bytes; Kubernetes takes 262144 for all", size)
	}
	if again, _ := w.mustRun(t, out, config); text(t, again) != text(t, out) {
		t.Error("a further render changes it")
	}
	if out, r, opened := w.attempt(t, with(10_000), config, issues); out != nil || opened != 0 || !strings.Contains(said(t, r), "10000 keys are revoked, and bundles have room for 3500") {
		t.Errorf("10,000: %s", said(t, r))
	}
	digests := make([]string, 10_000)
	for i := range digests {
		digests[i] = fmt.Sprintf("%064x", i)
	}
	annotate := func(value string) []*yaml.RNode {
		items := copies(good)
		set(t, find(t, items, "ConfigMap", "meshless-bundle"), value, "metadata", "annotations", api.RevokedAnnotation)
		return items
	}
	for _, m := range []mode{issues, never, builds, sealed} {
		if _, r, _ := w.attempt(t, annotate(strings.Join(digests, ",")), config, m); !strings.Contains(said(t, r), "10000 keys are revoked") || len(r.Errors()) != 1 {
			t.Errorf("%s: an annotation with 10,000: %d errors", m, len(r.Errors()))
		}
		if _, r, _ := w.attempt(t, annotate(strings.Repeat("nonsense,", 10_000)), config, m); len(r.Errors()) != 1 || !strings.Contains(r.Errors()[0], "restore it from Git") {
			t.Errorf("%s: an annotation with nonsense: %d errors", m, len(r.Errors()))
		}
	}
}

// TestValidityBeyondTheAuthority: a validity that was raised above what the authorities can sign is said, and no leaf
// outlives the one that signed it.
func TestValidityBeyondTheAuthority(t *testing.T) {
	w := newWorld(t)
	items, _ := w.mustRun(t, parse(t, twoDeployments), w.config(t, plainConfig))
	long := w.config(t, plainConfig)
	long.Spec.Certificates.Validity.Duration = 8000 * time.Hour
	w.now = start.Add(time.Hour)
	out, r := w.mustRun(t, items, long)
	if text := said(t, r); !strings.Contains(text, "spec.certificates.validity: 8000h0m0s is more than the Active authority has left: it ends at 2026-10-27T12:00:00Z") || !strings.Contains(text, "meshless issue --replace-ca") {
		t.Errorf("said %s", text)
	}
	leaf, active := decodeLeaf(t, find(t, out, "Secret", "meshless-deployment-web")), authorities(t, bundleOf(t, out))[0]
	if !leaf.NotAfter.Equal(active.NotAfter) {
		t.Errorf("the leaf ends at %s, its authority at %s", leaf.NotAfter, active.NotAfter)
	}
	if again, _ := w.mustRun(t, out, long); text(t, again) != text(t, out) {
		t.Error("a further render changes it")
	}
}

// TestPostQuantum: recipients of the CA and of workloads are post-quantum, alone and several, each list of its own
// kind; a list of both is refused by its field.
func TestPostQuantum(t *testing.T) {
	w := newWorld(t)
	a, b, ca1, ca2 := newHybrid(t), newHybrid(t), newHybrid(t), newHybrid(t)
	load := func(cluster, ca, prod string) *v1alpha1.MutualTLS {
		config, err := v1alpha1.Load(yaml.MustParse(fmt.Sprintf("apiVersion: meshless.dev/v1alpha1\nkind: MutualTLS\nmetadata: {name: mtls}\nspec:\n  sealing: {recipients: [%s], namespaces: {prod: [%s]}}\n"+
			"  certificates: {ca: {recipients: [%s]}}\n", cluster, prod, ca)))
		if err != nil {
			t.Fatal(err)
		}
		return config
	}
	list := func(recipients ...fmt.Stringer) string {
		var texts []string
		for _, r := range recipients {
			texts = append(texts, r.String())
		}
		return strings.Join(texts, ", ")
	}
	classic := w.cluster.Recipient()
	for name, test := range map[string]struct {
		config    *v1alpha1.MutualTLS
		opens     []age.Identity // each opens the workloads' keys alone
		authority []age.Identity // each opens the CA's key alone
		stanzas   int
	}{
		"alone":                     {load(list(a.Recipient()), list(ca1.Recipient()), list(a.Recipient())), []age.Identity{a}, []age.Identity{ca1}, 1},
		"several":                   {load(list(a.Recipient()), list(ca1.Recipient(), ca2.Recipient()), list(a.Recipient(), b.Recipient())), []age.Identity{a, b}, []age.Identity{ca1, ca2}, 2},
		"the CA alone":              {load(list(classic), list(ca1.Recipient(), ca2.Recipient()), list(classic)), []age.Identity{w.cluster}, []age.Identity{ca1, ca2}, 1},
		"one namespace alone":       {load(list(classic), list(w.ca.Recipient()), list(b.Recipient())), []age.Identity{b}, []age.Identity{w.ca}, 1},
		"all but that namespace":    {load(list(a.Recipient()), list(ca1.Recipient()), list(classic)), []age.Identity{w.cluster}, []age.Identity{ca1}, 1},
		"repeated, as one they are": {load(list(a.Recipient()), list(ca1.Recipient()), list(b.Recipient(), b.Recipient())), []age.Identity{b}, []age.Identity{ca1}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			out, r, _ := w.attempt(t, parse(t, twoDeployments), test.config, issues)
			if r.Failed() {
				t.Fatal(r.Errors())
			}
			secret := find(t, out, "Secret", "meshless-deployment-web")
			for _, identity := range test.opens {
				if key := w.open(t, secret, identity); !strings.Contains(string(key), "PRIVATE KEY") {
					t.Error("what was opened is no key")
				}
			}
			if n, err := seal.CountRecipients(decodeData(t, secret, api.SealedKeyFile)); err != nil || n != test.stanzas {
				t.Errorf("sealed to %d recipients, %v", n, err)
			}
			for _, identity := range test.authority { // an issuing render opens the CA's key
				more := append(copies(out), parse(t, oneMore)...)
				if _, r, opened := w.attempt(t, more, test.config, issues, identity); r.Failed() || opened != 1 {
					t.Errorf("opened %d times: %v", opened, r.Errors())
				}
			}
			if again, r, opened := w.attempt(t, out, test.config, issues); opened != 0 || r.Failed() || text(t, again) != text(t, out) {
				t.Errorf("a second render is not quiet: %s", said(t, r))
			}
		})
	}
	mixed := list(a.Recipient(), classic)
	for field, config := range map[string]*v1alpha1.MutualTLS{
		"spec.sealing.recipients":         load(mixed, list(ca1.Recipient()), list(b.Recipient())),
		"spec.certificates.ca.recipients": load(list(b.Recipient()), list(ca1.Recipient(), w.ca.Recipient()), list(b.Recipient())),
		"spec.sealing.namespaces[prod]":   load(list(b.Recipient()), list(ca1.Recipient()), mixed),
	} {
		if out, r, _ := w.attempt(t, parse(t, twoDeployments), config, issues); out != nil || len(r.Errors()) != 1 || !strings.Contains(r.Errors()[0], field+": mixes post-quantum (age1pq…) and classic (age1…)") {
			t.Errorf("mixed in %s: %v", field, r.Errors())
		}
	}
}

// decodeData is a value of a Secret.
func decodeData(t testing.TB, secret *yaml.RNode, key string) string {
	t.Helper()
	plain, err := base64.StdEncoding.DecodeString(secret.GetDataMap()[key])
	if err != nil {
		t.Fatal(err)
	}
	return string(plain)
}
