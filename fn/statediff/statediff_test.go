package statediff_test

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"sigs.k8s.io/kustomize/kyaml/kio"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/statediff"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

var (
	td     = spiffeid.RequireTrustDomainFromString("cluster.local")
	web    = spiffeid.RequireFromPath(td, "/ns/prod/deployment/web")
	start  = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	policy = certs.Profile{TrustDomain: td, Algorithm: "ECDSA-P256", Validity: 720 * time.Hour, RenewBefore: 360 * time.Hour, SigningPeriod: 2160 * time.Hour}
)

// state is what the manifests of one workload say.
type state struct {
	t           *testing.T
	authorities certs.Authorities // nil: no CertificateAuthority
	bundle      certs.Authorities // nil: those of authorities
	listed      []string          // of the bundle; nil: those that are revoked
	revoked     certs.Revocations
	leaf        *certs.Leaf // nil: no Secret
}

func (s state) read() *statediff.State {
	s.t.Helper()
	var out strings.Builder
	add := func(object map[string]any) {
		text, err := sigsyaml.Marshal(object)
		if err != nil {
			s.t.Fatal(err)
		}
		out.WriteString("---\n" + string(text))
	}
	metadata := func(name, identity string, annotations map[string]string) map[string]any {
		all := map[string]string{api.IdentityAnnotation: identity}
		for key, value := range annotations {
			all[key] = value
		}
		return map[string]any{"name": name, "namespace": "prod", "annotations": all}
	}
	if s.authorities != nil {
		add(map[string]any{"apiVersion": api.APIVersion, "kind": v1alpha1.KindCertificateAuthority, "metadata": map[string]any{"name": "mesh"}, "spec": s.authorities.State(td, s.revoked)})
	}
	if s.bundle == nil {
		s.bundle = s.authorities
	}
	if s.listed == nil {
		s.listed = s.revoked.Digests()
	}
	if s.bundle != nil {
		add(map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("meshless-bundle", td.IDString(), map[string]string{api.RevokedAnnotation: strings.Join(s.listed, ",")}),
			"data": map[string]string{api.BundleFile: string(svid.EncodeCertificates(s.bundle.Certificates()...))}})
	}
	if s.leaf != nil {
		add(map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": metadata("meshless-deployment-web", web.String(), nil),
			"data": map[string]string{api.LeafFile: base64.StdEncoding.EncodeToString(svid.EncodeCertificates(s.leaf.Certificate))}})
	}
	items, err := (&kio.ByteReader{Reader: strings.NewReader(out.String()), OmitReaderAnnotations: true}).Read()
	if err != nil {
		s.t.Fatal(err)
	}
	r := &report.Report{}
	read := statediff.ReadState(items, r)
	if r.Failed() {
		s.t.Fatal(r.Errors())
	}
	return read
}

func roll(t *testing.T, l certs.Authorities, now time.Time) certs.Authorities {
	t.Helper()
	rolled, err := policy.Roll(l, time.Time{}, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range rolled {
		if a.Slot != v1alpha1.SlotRetired {
			a.SealedKey = "sealed"
		}
	}
	return rolled
}

func issue(t *testing.T, ca *certs.Authority, now time.Time) *certs.Leaf {
	t.Helper()
	leaf, err := policy.Issue(certs.Request{ID: web}, ca, now)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// TestFindings: what each check finds names the object and the field that it is about.
func TestFindings(t *testing.T) {
	first, other := roll(t, nil, start), roll(t, nil, start)
	second := roll(t, first, start.Add(policy.SigningPeriod))
	replaced, err := first.Replace(start)
	if err != nil {
		t.Fatal(err)
	}
	replaced = roll(t, replaced, start)
	leaf := issue(t, first[0], start)
	stolen := certs.Revocations{certs.Revoke(leaf.Certificate)}
	good := state{t: t, authorities: first, leaf: leaf}
	revoked := state{t: t, authorities: first, revoked: stolen, leaf: issue(t, first[0], start)}
	now := start.Add(time.Hour)
	regression := func(base, head state) func(*statediff.Checker) {
		return func(c *statediff.Checker) { c.CheckRegression(base.read(), head.read(), true) }
	}
	const (
		ca     = "certificateauthority mesh: spec."
		bundle = "configmap prod/meshless-bundle: "
		secret = "secret prod/meshless-deployment-web: data[tls.crt]: "
	)
	for name, test := range map[string]struct {
		now   time.Time
		check func(*statediff.Checker)
		want  []string
	}{
		"nothing changed":      {now, regression(good, good), nil},
		"rolled in time":       {start.Add(policy.SigningPeriod), regression(good, state{t: t, authorities: second, leaf: leaf}), []string{ca + "authorities[2]: authority \"CN=meshless"}},
		"the state is gone":    {now, regression(good, state{t: t}), []string{"certificateauthority mesh: the state is gone"}},
		"the CA is gone":       {now, regression(good, state{t: t, bundle: first, leaf: leaf}), []string{"certificateauthority mesh: the CertificateAuthority is gone"}},
		"another CA":           {now, regression(good, state{t: t, authorities: other}), []string{ca + "authorities: the CertificateAuthority is another one"}},
		"a revocation undone":  {now, regression(revoked, good), []string{ca + "revoked: key ", secret + "the certificate of " + web.String() + " is back"}},
		"a build, undone":      {now, regression(revoked, state{t: t, bundle: first}), []string{bundle + "metadata.annotations[meshless.dev/revoked-keys]: key "}},
		"a replacement undone": {now, regression(state{t: t, authorities: replaced, leaf: leaf}, good), []string{ca + "authorities[0]: authority \"meshless", ca + "authorities[1]: authority \"CN=meshless"}},
		"an authority dropped": {now, regression(good, state{t: t, authorities: first, bundle: other, leaf: leaf}),
			[]string{bundle + "data[ca.crt]: authority \"meshless", bundle + "data[ca.crt]: authority \"CN=meshless", bundle + "data[ca.crt]: authority \"CN=meshless"}},
		"too early": {now, regression(good, state{t: t, authorities: first, bundle: append(first[:2:2], other...), leaf: issue(t, other[0], start)}),
			[]string{secret + "the certificate of " + web.String() + " (and maybe more)", bundle + "data[ca.crt]: authority", bundle + "data[ca.crt]: authority"}},
		"planted": {now, regression(good, state{t: t, authorities: append(certs.Authorities{{Slot: v1alpha1.SlotRetired, Certificate: other[0].Certificate, ActiveSince: start, TrustedUntil: start.Add(time.Hour * 999)}}, first...)}),
			[]string{ca + "authorities[0]: authority \"meshless"}},
		"an edited bundle": {now, func(c *statediff.Checker) {
			s := state{t: t, authorities: first, bundle: append(first[:1:1], other[0]), revoked: stolen, listed: []string{}}.read()
			c.CheckConsistency(s, s, false)
		}, []string{bundle + "data[ca.crt]: trusts", bundle + "data[ca.crt]: lacks", bundle + "metadata.annotations[meshless.dev/revoked-keys]: does not list"}},
		"behind a shared CA": {start.Add(policy.SigningPeriod), func(c *statediff.Checker) {
			c.CheckSharedCA(state{t: t, bundle: first}.read(), state{t: t, authorities: second}.read())
		}, []string{bundle + "data[ca.crt]: lacks authority"}},
		"of another shared CA": {now, func(c *statediff.Checker) {
			c.CheckSharedCA(state{t: t, bundle: other}.read(), state{t: t, authorities: first}.read())
		}, []string{bundle + "data[ca.crt]: has no authority in common"}},
		"a key that a shared CA revokes": {now, func(c *statediff.Checker) {
			c.CheckSharedCA(state{t: t, bundle: first}.read(), revoked.read())
		}, []string{bundle + "metadata.annotations[meshless.dev/revoked-keys]: does not list"}},
		"a revoked leaf": {now, func(c *statediff.Checker) {
			c.CheckRevoked(state{t: t, authorities: first, revoked: stolen, leaf: leaf}.read())
		}, []string{secret + "the certificate of " + web.String() + " has the key"}},
		"soon": {start.Add(710 * time.Hour), func(c *statediff.Checker) {
			c.CheckDeadlines(good.read(), good.read(), 6000*time.Hour)
		}, []string{secret + "expires at", ca + "authorities[0]: the Active authority signs"}},
		"Next is late": {start.Add(2200 * time.Hour), func(c *statediff.Checker) {
			c.CheckDeadlines(state{t: t}.read(), good.read(), 0)
		}, []string{ca + "authorities[1]: the Next authority should sign"}},
		"a step is late": {start.Add(50 * time.Hour), func(c *statediff.Checker) {
			s := state{t: t, authorities: replaced}.read()
			c.CheckDeadlines(s, s, 0)
		}, []string{ca + "authorities: the CA is being replaced"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := &report.Report{}
			test.check(&statediff.Checker{Now: test.now, Profile: policy, Report: r})
			var said strings.Builder
			if err := r.WriteText(&said); err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(said.String()), "\n")
			if test.want == nil && said.Len() == 0 {
				return
			}
			if len(lines) != len(test.want) {
				t.Fatalf("%d findings, want %d:\n%s", len(lines), len(test.want), said.String())
			}
			for i, line := range lines {
				if _, finding, _ := strings.Cut(line, ": "); !strings.HasPrefix(finding, test.want[i]) {
					t.Errorf("got %q, want %q", finding, test.want[i])
				}
			}
		})
	}
}
