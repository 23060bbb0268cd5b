package pipeline_test

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/seal"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

// The ways in which a render sees its state. All of them check it.
type mode string

const (
	issues mode = "issues"           // kpt fn render, meshless issue
	never  mode = "issuance Never"   // a validator
	builds mode = "kustomize build"  // with ca.yaml among the resources
	sealed mode = "build without CA" // kustomize build as it should be
)

// attempt renders in a mode and counts how often somebody asked for the identity that opens the CA's key: without it
// nothing can be signed by an authority of the state.
func (w *world) attempt(t testing.TB, items []*yaml.RNode, config *v1alpha1.MutualTLS, m mode, identities ...age.Identity) (out []*yaml.RNode, r *report.Report, opened int) {
	t.Helper()
	judged := *config
	if m == never {
		judged.Spec.Issuance = v1alpha1.IssuanceNever
	}
	if m == sealed {
		items = withoutKind(items, v1alpha1.KindCertificateAuthority)
	}
	if identities == nil {
		identities = []age.Identity{w.ca}
	}
	before := digest(items)
	r = &report.Report{}
	stored := pipeline.Build
	if m == issues || m == never {
		stored = pipeline.Store
	}
	out = pipeline.Run(items, &judged, pipeline.Options{Now: w.now, Mode: stored, CAIdentity: func() ([]age.Identity, error) {
		opened++
		return identities, nil
	}}, r)
	if digest(items) != before {
		t.Errorf("%s: the input was changed", m)
	}
	if r.Failed() && out != nil {
		t.Errorf("%s: a failed render has output", m)
	}
	for _, message := range r.Errors() {
		if len(message) > 4000 {
			t.Errorf("%s: an error of %d bytes", m, len(message))
		}
	}
	return out, r, opened
}

// editAuthority changes the CertificateAuthority as a hand would.
func editAuthority(t testing.TB, items []*yaml.RNode, change func(*v1alpha1.CertificateAuthoritySpec)) []*yaml.RNode {
	t.Helper()
	items = copies(items)
	item := find(t, items, v1alpha1.KindCertificateAuthority, "mtls")
	state, err := v1alpha1.ParseCertificateAuthority(item)
	if err != nil {
		t.Fatal(err)
	}
	change(&state.Spec)
	data, err := sigsyaml.Marshal(state.Spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := item.PipeE(yaml.SetField("spec", yaml.MustParse(string(data)))); err != nil {
		t.Fatal(err)
	}
	return items
}

// digest is of all that stands in items, which may be large and no objects; writing them would take longer than the
// render.
func digest(items []*yaml.RNode) uint64 {
	var sum maphash.Hash
	sum.SetSeed(seed)
	var add func(n *yaml.Node)
	add = func(n *yaml.Node) {
		for _, part := range []string{n.Tag, n.Value, n.Anchor, n.HeadComment, n.LineComment, n.FootComment} {
			maphash.WriteComparable(&sum, part)
		}
		maphash.WriteComparable(&sum, [3]int{int(n.Kind), int(n.Style), len(n.Content)})
		for _, child := range n.Content {
			add(child)
		}
	}
	for _, item := range items {
		add(item.YNode())
	}
	return sum.Sum64()
}

var seed = maphash.MakeSeed()

func copies(items []*yaml.RNode) []*yaml.RNode {
	var out []*yaml.RNode
	for _, item := range items {
		out = append(out, item.Copy())
	}
	return out
}

// editData changes one field of a Secret or ConfigMap.
func editData(t testing.TB, items []*yaml.RNode, kind, name, key, value string) []*yaml.RNode {
	t.Helper()
	items = copies(items)
	set(t, find(t, items, kind, name), value, "data", key)
	return items
}

func editSecret(t testing.TB, items []*yaml.RNode, key, value string) []*yaml.RNode {
	t.Helper()
	return editData(t, items, "Secret", "meshless-deployment-web", key, base64.StdEncoding.EncodeToString([]byte(value)))
}

// plant makes authorities of somebody else, their keys sealed to the CA's recipients, which are no secret.
func plant(t testing.TB, w *world, trustDomain string) []v1alpha1.Authority {
	t.Helper()
	td := spiffeid.RequireTrustDomainFromString(trustDomain)
	p := certs.Profile{TrustDomain: td, Algorithm: "ECDSA-P256", Validity: 720 * time.Hour, RenewBefore: 360 * time.Hour, SigningPeriod: 2160 * time.Hour}
	list, err := p.Roll(nil, time.Time{}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	recipients, err := seal.ParseRecipients([]string{w.ca.Recipient().String()})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		key, err := svid.EncodeKey(a.Key)
		if err != nil {
			t.Fatal(err)
		}
		if a.SealedKey, err = recipients.Seal(key); err != nil {
			t.Fatal(err)
		}
		a.Recipients = recipients.Digest()
	}
	return list.State(td, nil).Authorities
}

// ageFile is an armored age file of a header and a payload that need not fit each other.
func ageFile(t testing.TB, stanzas string, payload int) string {
	t.Helper()
	var out bytes.Buffer
	w := armor.NewWriter(&out)
	mac := base64.RawStdEncoding.EncodeToString(make([]byte, 32))
	if _, err := fmt.Fprintf(w, "age-encryption.org/v1\n%s--- %s\n%s", stanzas, mac, strings.Repeat("x", payload)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// scryptBomb asks whoever tries a passphrase for 2^30 rounds and a terabyte.
func scryptBomb(t testing.TB) string {
	return ageFile(t, "-> scrypt "+base64.RawStdEncoding.EncodeToString(make([]byte, 16))+" 30\n"+base64.RawStdEncoding.EncodeToString(make([]byte, 32))+"\n", 100)
}

// manyStanzas is sealed to n recipients of the right kind.
func manyStanzas(t testing.TB, n int) string {
	part := base64.RawStdEncoding.EncodeToString(make([]byte, 32))
	return ageFile(t, strings.Repeat("-> X25519 "+part+"\n"+part+"\n", n), 100)
}

// prolonged is a certificate whose NotAfter was edited: its signature is of another text.
func prolonged(t testing.TB, text string) string {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	c := authorities(t, text)[0]
	const utcTime = "060102150405Z"
	edited := bytes.Replace(block.Bytes, []byte(c.NotAfter.Format(utcTime)), []byte(c.NotAfter.AddDate(1, 0, 0).Format(utcTime)), 1)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: edited}))
}

// TestBrokenAuthority: whatever is wrong with the CertificateAuthority is said on every render that sees it, with a way
// out, and before its key is asked for.
func TestBrokenAuthority(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	good, _ := w.mustRun(t, parse(t, twoDeployments), config)
	past := *w
	w.now = start.Add(400 * time.Hour) // leaves are due, so that a render that may would sign
	at := func(d time.Duration) *metav1.Time { return &metav1.Time{Time: w.now.Add(d)} }
	type spec = *v1alpha1.CertificateAuthoritySpec
	for name, test := range map[string]struct {
		change func(spec)
		want   string
	}{
		"another trust domain":  {func(s spec) { s.TrustDomain = "other" }, "a trust domain is not renamed"},
		"authority of another":  {func(s spec) { s.Authorities[0].Certificate = plant(t, w, "other")[0].Certificate }, "spec.authorities[0].certificate: is not an authority of spiffe://cluster.local"},
		"no authority":          {func(s spec) { s.Authorities = nil }, "holds 0 Active and 0 Next"},
		"two Active":            {func(s spec) { s.Authorities[1].Slot, s.Authorities[1].ActiveSince = v1alpha1.SlotActive, at(0) }, "holds 2 Active and 0 Next"},
		"unknown slot":          {func(s spec) { s.Authorities[1].Slot = "Standby" }, `spec.authorities[1].slot: "Standby" is not Next, Active or Retired`},
		"truncated certificate": {func(s spec) { s.Authorities[0].Certificate = s.Authorities[0].Certificate[:300] }, "spec.authorities[0].certificate: holds a broken PEM block"},
		"no PEM":                {func(s spec) { s.Authorities[0].Certificate = "x" }, "spec.authorities[0].certificate: holds text that is not PEM"},
		"a key as certificate": {func(s spec) {
			s.Authorities[0].Certificate = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
		}, "holds a PEM block that is not a certificate"},
		"two certificates":      {func(s spec) { s.Authorities[0].Certificate += s.Authorities[1].Certificate }, "holds 2 certificates, want one"},
		"prolonged certificate": {func(s spec) { s.Authorities[0].Certificate = prolonged(t, s.Authorities[0].Certificate) }, "is not a self-signed CA certificate; restore"},
		"the same twice":        {func(s spec) { s.Authorities[1].Certificate = s.Authorities[0].Certificate }, "twice"},
		"made tomorrow": {func(s spec) {
			late := *w
			late.now = w.now.Add(24 * time.Hour)
			s.Authorities[1] = plant(t, &late, "cluster.local")[1]
		}, "spec.authorities[1].certificate: is valid only from"},
		"active since tomorrow":     {func(s spec) { s.Authorities[0].ActiveSince = at(24 * time.Hour) }, "spec.authorities[0].activeSince: 2026-03-19T04:00:00Z is in the future"},
		"active before it was made": {func(s spec) { s.Authorities[0].ActiveSince = at(-2000 * time.Hour) }, "is before its certificate was made"},
		"no activeSince":            {func(s spec) { s.Authorities[0].ActiveSince = nil }, "spec.authorities[0].activeSince: is missing"},
		"Next that was active":      {func(s spec) { s.Authorities[1].ActiveSince = at(0) }, "spec.authorities[1]: has a time that an authority in slot Next does not have"},
		"Next that is replaced":     {func(s spec) { s.Authorities[1].Replaced = at(0) }, "spec.authorities[1]: has a time that an authority in slot Next does not have"},
		"replaced tomorrow":         {func(s spec) { s.Authorities[0].Replaced = at(24 * time.Hour) }, "spec.authorities[0].replaced: "},
		"Retired with a key": {func(s spec) {
			s.Authorities[1].Slot, s.Authorities[1].TrustedUntil = v1alpha1.SlotRetired, at(time.Hour)
		}, "spec.authorities[1].sealedKey: a Retired authority has no key any more"},
		"Retired for ever":        {func(s spec) { s.Authorities[1].Slot, s.Authorities[1].SealedKey = v1alpha1.SlotRetired, "" }, "spec.authorities[1].trustedUntil: is missing"},
		"Active without a key":    {func(s spec) { s.Authorities[0].SealedKey = "" }, "spec.authorities[0].sealedKey: an authority in slot Active has a key"},
		"garbage as key":          {func(s spec) { s.Authorities[0].SealedKey = "SECRET" + strings.Repeat("x", 5000) }, "spec.authorities[0].sealedKey: is not an armored age file; restore"},
		"garbage as the next key": {func(s spec) { s.Authorities[1].SealedKey = "x" }, "spec.authorities[1].sealedKey: is not an armored age file; restore"},
		"key that was cut":        {func(s spec) { k := s.Authorities[1].SealedKey; s.Authorities[1].SealedKey = k[:len(k)-60] }, "spec.authorities[1].sealedKey: is not an armored age file; restore"},
		"key of 10 MiB":           {func(s spec) { s.Authorities[0].SealedKey += strings.Repeat("x", 10<<20) }, "spec.authorities[0].sealedKey: is larger than any sealed key"},
		"key behind a passphrase": {func(s spec) { s.Authorities[0].SealedKey = scryptBomb(t) }, "spec.authorities[0].sealedKey: is sealed with a passphrase"},
		"header without a key": {func(s spec) {
			s.Authorities[0].SealedKey = ageFile(t, "-> X25519 "+strings.Repeat("A", 43)+"\n"+strings.Repeat("A", 43)+"\n", 20)
		}, "is cut off: it holds no key"},
		"planted Active":             {func(s spec) { s.Authorities[0] = withDate(plant(t, &past, "cluster.local")[0], at(0)) }, "which the bundles trust: object and bundles are of different states"},
		"planted Active, old one in": {func(s spec) { usurp(s, withDate(plant(t, &past, "cluster.local")[0], at(0)), at(720*time.Hour)) }, "its Active, \"meshless cluster.local"},
		"revoked without a digest":   {func(s spec) { s.Revoked = []v1alpha1.RevokedKey{{Key: "abc", Until: *at(time.Hour)}} }, `spec.revoked[0].key: "abc" is not the SHA-256 of a public key`},
		"revoked in upper case":      {func(s spec) { s.Revoked = []v1alpha1.RevokedKey{{Key: strings.Repeat("A", 64), Until: *at(time.Hour)}} }, "is not the SHA-256 of a public key"},
		"revoked until never":        {func(s spec) { s.Revoked = []v1alpha1.RevokedKey{{Key: strings.Repeat("a", 64)}} }, "spec.revoked[0].until: is missing"},
		"10,000 authorities": {func(s spec) {
			retired := v1alpha1.Authority{Slot: v1alpha1.SlotRetired, TrustedUntil: at(time.Hour), Certificate: s.Authorities[0].Certificate}
			s.Authorities = append(s.Authorities, slices.Repeat([]v1alpha1.Authority{retired}, 10_000)...)
		}, "spec.authorities: holds 10002 authorities, and no more than 1000 are read"},
	} {
		t.Run(name, func(t *testing.T) {
			broken := editAuthority(t, good, test.change)
			for _, m := range []mode{issues, never, builds} {
				_, r, opened := w.attempt(t, broken, config, m)
				wantRefusal(t, m, r, test.want, "certificateauthority mtls: ")
				if opened != 0 {
					t.Errorf("%s: the CA's key was asked for", m)
				}
				if strings.Contains(said(t, r), "SECRET") {
					t.Errorf("%s: an error quotes what may be a key", m)
				}
			}
		})
	}
}

// wantRefusal wants an error about the object, with the words, and a way out.
func wantRefusal(t testing.TB, m mode, r *report.Report, want, object string) {
	t.Helper()
	got := strings.Join(r.Errors(), "\n")
	if !strings.Contains(got, want) || !strings.Contains(got, object) {
		t.Errorf("%s: got %q, want %q of %s", m, got, want, object)
	}
	if !slices.ContainsFunc([]string{"estore", "compare the clocks", "delete", "meshless issue"}, func(way string) bool { return strings.Contains(got, way) }) {
		t.Errorf("%s: no way out in %q", m, got)
	}
}

func withDate(a v1alpha1.Authority, since *metav1.Time) v1alpha1.Authority {
	a.ActiveSince = since
	return a
}

// usurp puts another authority in the place of the Active, which stays trusted so that nobody notices.
func usurp(s *v1alpha1.CertificateAuthoritySpec, by v1alpha1.Authority, until *metav1.Time) {
	old := s.Authorities[0]
	old.Slot, old.SealedKey, old.Recipients, old.TrustedUntil = v1alpha1.SlotRetired, "", "", until
	s.Authorities = append([]v1alpha1.Authority{old, by}, s.Authorities[1:]...)
}

// TestBrokenLeaf: what a package without the CA's identity says of a Secret that does not fit, and that a render which
// may issue replaces it.
func TestBrokenLeaf(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	good, _ := w.mustRun(t, parse(t, twoDeployments), config)
	data := func(name, key string) string {
		plain, err := base64.StdEncoding.DecodeString(find(t, good, "Secret", name).GetDataMap()[key])
		if err != nil {
			t.Fatal(err)
		}
		return string(plain)
	}
	leaf, key := data("meshless-deployment-web", api.LeafFile), data("meshless-deployment-web", api.SealedKeyFile)
	pq, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	recipients, err := seal.ParseRecipients([]string{pq.Recipient().String()})
	if err != nil {
		t.Fatal(err)
	}
	postQuantum, err := recipients.Seal([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	foreign, _ := w.mustRun(t, parse(t, twoDeployments), config)
	for name, test := range map[string]struct {
		key, value string
		want       string
	}{
		"truncated certificate":     {api.LeafFile, leaf[:200], "tls.crt does not hold exactly one certificate"},
		"empty certificate":         {api.LeafFile, "", "tls.crt does not hold exactly one certificate"},
		"certificate twice":         {api.LeafFile, leaf + leaf, "tls.crt does not hold exactly one certificate"},
		"certificate of a CA":       {api.LeafFile, bundleOf(t, good)[:strings.Index(bundleOf(t, good), "-----END")] + "-----END CERTIFICATE-----\n", "names the trust domain"},
		"certificate of another":    {api.LeafFile, data("meshless-deployment-api", api.LeafFile), "its certificate is for spiffe://cluster.local/ns/prod/deployment/api"},
		"certificate of another CA": {api.LeafFile, pemOf(t, foreign), "no authority of the bundle signed it"},
		"prolonged certificate":     {api.LeafFile, prolonged(t, leaf), "no authority of the bundle signed it"},
		"garbage as key":            {api.SealedKeyFile, "x", "tls.key.age is not an armored age file"},
		"key that was cut":          {api.SealedKeyFile, key[:len(key)-80], "tls.key.age is not an armored age file"},
		"key of 10 MiB":             {api.SealedKeyFile, key + strings.Repeat(" ", 10<<20), "tls.key.age is larger than any sealed key"},
		"key behind a passphrase":   {api.SealedKeyFile, scryptBomb(t), "tls.key.age is sealed with a passphrase"},
		"key for a thousand":        {api.SealedKeyFile, manyStanzas(t, 1000), "tls.key.age is sealed to 1000 recipients, the config names 1"},
		"key for too many":          {api.SealedKeyFile, manyStanzas(t, 1025), "tls.key.age is not an armored age file"},
		"key for another kind":      {api.SealedKeyFile, postQuantum, "tls.key.age is sealed to recipients of another kind"},
		// proxy/identity refuses it: "does not belong to the leaf"
		"swapped ciphertext": {api.SealedKeyFile, data("meshless-deployment-api", api.SealedKeyFile), ""},
	} {
		t.Run(name, func(t *testing.T) {
			broken := editSecret(t, good, test.key, test.value)
			for _, m := range []mode{never, builds, sealed} {
				_, r, opened := w.attempt(t, broken, config, m)
				if opened != 0 {
					t.Errorf("%s: the CA's key was asked for", m)
				}
				if test.want == "" {
					continue
				}
				wantRefusal(t, m, r, "the certificate must be issued anew: ", "deployment prod/web: ")
				if !strings.Contains(r.Errors()[0], test.want) || len(r.Errors()) != 1 {
					t.Errorf("%s: got %q, want %q", m, r.Errors(), test.want)
				}
			}
			out, r, opened := w.attempt(t, broken, config, issues)
			if r.Failed() {
				t.Fatalf("a render that may issue does not mend it: %v", r.Errors())
			}
			if renewed := opened > 0; renewed != (test.want != "") {
				t.Errorf("asked for the CA's key: %v, though %q", renewed, test.want)
			}
			if secretText(t, out, "meshless-deployment-api") != secretText(t, good, "meshless-deployment-api") {
				t.Error("another workload's Secret changed")
			}
			if got := decodeLeaf(t, find(t, out, "Secret", "meshless-deployment-web")).URIs[0].Path; got != "/ns/prod/deployment/web" {
				t.Errorf("the leaf is of %s", got)
			}
		})
	}
}

func pemOf(t testing.TB, items []*yaml.RNode) string {
	t.Helper()
	return string(svid.EncodeCertificates(decodeLeaf(t, find(t, items, "Secret", "meshless-deployment-web"))))
}

// TestBrokenBundle: a bundle decides whom every pod trusts, so one that no render has written is refused wherever it is
// seen.
func TestBrokenBundle(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	good, _ := w.mustRun(t, parse(t, twoDeployments), config)
	bundle := bundleOf(t, good)
	first := string(svid.EncodeCertificates(authorities(t, bundle)[0]))
	for name, test := range map[string]struct {
		text string
		want map[mode]string
	}{
		"empty":         {"", map[mode]string{issues: "holds no certificate; restore it from Git", sealed: "holds no certificate; restore it from Git"}},
		"cut":           {bundle[:len(bundle)-100], map[mode]string{issues: "holds a broken PEM block", sealed: "holds a broken PEM block"}},
		"text":          {"# our CA\n" + bundle, map[mode]string{issues: "holds text that is not PEM", sealed: "holds text that is not PEM"}},
		"key":           {bundle + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", map[mode]string{issues: "is not a certificate", sealed: "is not a certificate"}},
		"twice":         {bundle + first, map[mode]string{issues: "twice; restore it from Git", sealed: "twice; restore it from Git"}},
		"leaf":          {bundle + pemOf(t, good), map[mode]string{issues: "is not a CA certificate", sealed: "is not a CA certificate"}},
		"prolonged":     {prolonged(t, first), map[mode]string{issues: "is not a self-signed CA certificate", sealed: "is not a self-signed CA certificate"}},
		"foreign":       {bundle + plant(t, w, "other")[0].Certificate, map[mode]string{issues: "which names spiffe://other; restore", sealed: "which names spiffe://other; restore"}},
		"another state": {bundle + plant(t, w, "cluster.local")[0].Certificate, map[mode]string{issues: "object and bundles are of different states", never: "object and bundles are of different states"}},
		"one too few":   {first, map[mode]string{never: "does not hold the certificates of the CertificateAuthority"}},
		"not ours":      {plant(t, w, "cluster.local")[0].Certificate, map[mode]string{issues: "object and bundles are of different states", sealed: "no authority of the bundle signed it"}},
	} {
		for m, want := range test.want {
			t.Run(name+"/"+string(m), func(t *testing.T) {
				_, r, opened := w.attempt(t, editData(t, good, "ConfigMap", "meshless-bundle", api.BundleFile, test.text), config, m)
				wantRefusal(t, m, r, want, "")
				if opened != 0 {
					t.Error("the CA's key was asked for")
				}
			})
		}
	}
	t.Run("expired", func(t *testing.T) {
		early := *w
		early.now = start.Add(-6000 * time.Hour)
		expired := bundle + plant(t, &early, "cluster.local")[0].Certificate
		broken := editData(t, good, "ConfigMap", "meshless-bundle", api.BundleFile, expired)
		if _, r, _ := w.attempt(t, broken, config, sealed); r.Failed() || !strings.Contains(said(t, r), "which expired at") || !strings.Contains(said(t, r), "meshless issue") {
			t.Errorf("a build: %s", said(t, r))
		}
		if out, r, _ := w.attempt(t, broken, config, issues); r.Failed() || bundleOf(t, out) != bundle {
			t.Errorf("a render that issues keeps it: %v", r.Errors())
		}
	})
}
