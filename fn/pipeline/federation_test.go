package pipeline_test

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/testca"
)

const federatedService = `---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: prod}
spec: {selector: {app: web}, clusterIP: 10.7.0.9, ports: [{port: 80}]}
`

// federate adds an entry to a config.
func federate(config *v1alpha1.MutualTLS, td, bundle string, cidrs ...string) *v1alpha1.MutualTLS {
	changed := *config
	prefixes, err := netset.ParsePrefixes(strings.Join(cidrs, ","))
	if err != nil {
		panic(err)
	}
	changed.Spec.Federation = append(changed.Spec.Federation[:len(changed.Spec.Federation):len(changed.Spec.Federation)],
		v1alpha1.Federation{TrustDomain: td, Bundle: bundle, CIDRs: prefixes})
	return &changed
}

// TestFederationIsDerived: the map has what the config says, at every render anew, in any form, and nothing of it is
// state.
func TestFederationIsDerived(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	other := testca.New(t, "other.example")
	federated := federate(config, "other.example", string(other.PEM()), "10.7.0.0/16")
	federated.Spec.Authorization.Rules = []v1alpha1.AuthorizationRule{{To: v1alpha1.Selector{Name: "web"}, From: []v1alpha1.Peer{{SPIFFEID: "spiffe://other.example/ns/prod/*/*"}}}}
	before, _ := w.mustRun(t, parse(t, twoDeployments), config)
	out, _ := w.mustRun(t, before, federated)
	mesh := find(t, out, "ConfigMap", "meshless-mesh").GetDataMap()[api.MeshFile]
	parsed, err := meshmap.Parse([]byte(mesh))
	if err != nil {
		t.Fatal(err)
	}
	if f := parsed.Federated("other.example"); f == nil || f.Bundle != string(other.PEM()) || len(f.CIDRs) != 1 {
		t.Errorf("the map says %s", mesh)
	}
	if p := parsed.Inbound.Policy; len(p) != 1 || p[0].Rules[0].From[0] != "spiffe://other.example/ns/prod/*/*" {
		t.Errorf("the policy is %+v", p)
	}
	if bundleOf(t, out) != bundleOf(t, before) {
		t.Error("the bundle of our own trust domain changed")
	}
	again, _ := w.mustRun(t, out, federated)
	if text(t, again) != text(t, out) {
		t.Error("a second render is not quiet")
	}
	back, _ := w.mustRun(t, again, config)
	if text(t, back) != text(t, before) {
		t.Error("taking the federation out leaves something")
	}
}

func TestFederationRefused(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	before, _ := w.mustRun(t, parse(t, twoDeployments), config)
	ours, err := svid.ParseCertificates([]byte(bundleOf(t, before)))
	if err != nil {
		t.Fatal(err)
	}
	expired := testca.New(t, "other.example", func(c *x509.Certificate) { c.NotBefore, c.NotAfter = w.now.Add(-48*time.Hour), w.now.Add(-time.Hour) })
	last := testca.New(t, "other.example", func(c *x509.Certificate) { c.NotBefore, c.NotAfter = w.now.Add(-48*time.Hour), w.now.Add(time.Hour) })
	nameless := testca.New(t, "", func(c *x509.Certificate) { c.URIs = nil })
	annotated := strings.Replace(twoDeployments, "metadata: {labels: {app: web}}", "metadata: {labels: {app: web}, annotations: {meshless.dev/exclude-outbound-cidrs: 10.7.1.0/24}}", 1)
	good := string(testca.New(t, "other.example").PEM())
	additional := *config
	additional.Spec.Certificates.CA.Additional = string(nameless.PEM())
	for name, c := range map[string]struct {
		input  string
		config *v1alpha1.MutualTLS
		want   string // empty: rendered
	}{
		"good":                            {twoDeployments, federate(config, "other.example", good, "10.7.0.0/16"), ""},
		"one of two has expired":          {twoDeployments, federate(config, "other.example", string(expired.PEM())+string(last.PEM())), ""},
		"all have expired":                {twoDeployments, federate(config, "other.example", string(expired.PEM())), "all of its authorities have expired, the last at " + w.now.Add(-time.Hour).Format(time.RFC3339)},
		"our own authority":               {twoDeployments, federate(config, "other.example", string(svid.EncodeCertificates(ours[0]))), "which names spiffe://cluster.local"},
		"an authority that we add":        {twoDeployments, federate(&additional, "other.example", string(nameless.PEM())), "must not be mixed"},
		"a Service of ours in a network":  {twoDeployments + federatedService, federate(config, "other.example", good, "10.7.0.0/16"), "has the address 10.7.0.9, which is in 10.7.0.0/16"},
		"a workload that bypasses it":     {annotated, federate(config, "other.example", good, "10.7.0.0/16"), "where plaintext must not go"},
		"a workload that bypasses others": {annotated, federate(config, "other.example", good, "10.8.0.0/16"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			items := append(parse(t, c.input), before[2:]...)
			_, r := w.run(items, c.config)
			if got := said(t, r); r.Failed() != (c.want != "") || !strings.Contains(got, c.want) {
				t.Errorf("the report says %s, want %q", got, c.want)
			}
		})
	}
}
