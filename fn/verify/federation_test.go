package verify_test

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/verify"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/testca"
)

// TestFederationInMaps: verify sees the federated bundles as they will be applied, warns once before the last authority
// of one expires, and refuses what is mixed.
func TestFederationInMaps(t *testing.T) {
	good := rendered(t)
	until := func(d time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(-100*24*time.Hour), now.Add(d) }
	}
	ca := func(d time.Duration) string { return string(testca.New(t, "other.example", until(d)).PEM()) }
	nameless := testca.New(t, "", func(c *x509.Certificate) { c.URIs = nil; until(90 * 24 * time.Hour)(c) })
	own, err := svid.ParseCertificates([]byte(parse(t, bundleOf(t, good))[0].GetDataMap()["ca.crt"]))
	if err != nil {
		t.Fatal(err)
	}
	entry := func(td, bundle string) string {
		return "    - trustDomain: " + td + "\n      bundle: |\n        " + strings.ReplaceAll(strings.TrimSpace(bundle), "\n", "\n        ") + "\n"
	}
	const day = 24 * time.Hour
	for name, c := range map[string]struct {
		entries, want string
		fails         bool
	}{
		"good":                     {entry("other.example", ca(60*day)), "", false},
		"one of two expires soon":  {entry("other.example", ca(5*day)+ca(60*day)), "", false},
		"the last expires soon":    {entry("other.example", ca(-day)+ca(29*day)), `the last authority of the federated trust domain "other.example" expires at 2026-03-30T12:00:00Z`, false},
		"the last has expired":     {entry("other.example", ca(-day)), `expired at 2026-02-28T12:00:00Z`, true},
		"of another trust domain":  {entry("third.example", ca(60*day)), "which names spiffe://other.example", true},
		"our own":                  {entry("other.example", string(svid.EncodeCertificates(own...))), "which names spiffe://cluster.local", true},
		"in two bundles":           {entry("other.example", string(nameless.PEM())) + entry("third.example", string(nameless.PEM())), "must not be mixed", true},
		"our own trust domain":     {entry("cluster.local", string(nameless.PEM())), "is our own", true},
		"a bundle that is no text": {entry("other.example", "hello"), "not PEM", true},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.ReplaceAll(good, "    kind: Mesh\n", "    federation:\n"+c.entries+"    kind: Mesh\n")
			if text == good {
				t.Fatal("the maps are not changed")
			}
			r := &report.Report{}
			verify.Check(parse(t, text), verify.Options{Now: now, EveryWorkload: true}, r)
			var out strings.Builder
			if err := r.WriteText(&out); err != nil {
				t.Fatal(err)
			}
			if r.Failed() != c.fails || !strings.Contains(out.String(), c.want) || c.want == "" && strings.Contains(out.String(), "federat") {
				t.Errorf("got %q, want %q", out.String(), c.want)
			}
			if n := strings.Count(out.String(), "the last authority"); n > 1 {
				t.Errorf("said %d times", n)
			}
			quiet := &report.Report{}
			verify.Rendered(parse(t, text), manifest.Kinds{}, now, quiet)
			out.Reset()
			if err := quiet.WriteText(&out); err != nil {
				t.Fatal(err)
			}
			if quiet.Failed() != c.fails || strings.Contains(out.String(), " expires at ") {
				t.Errorf("at the end of a render: %q", out.String())
			}
		})
	}
}
