package pipeline

import (
	"crypto/x509"
	"fmt"
	"time"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/svid"
)

// checkFederation checks what the config's validation cannot know: the time, and our own authorities. The latter are
// not known where cert-manager issues; there the proxies refuse an authority of two trust domains.
func checkFederation(m *manifest.Model, ours []*x509.Certificate, now time.Time, r *report.Report) {
	var own *svid.Bundle
	if len(ours) > 0 && len(m.Spec.Federation) > 0 {
		var err error
		if own, err = svid.NewBundle(m.TrustDomain, ours, nil); err != nil {
			r.Error(r.Config(), "spec.certificates.ca", "our own bundle: %v", err)
			return
		}
	}
	for i, f := range m.Spec.Federation {
		field := fmt.Sprintf("spec.federation[%d].bundle", i)
		entry, err := f.Mesh()
		if err != nil {
			r.Error(r.Config(), field, "%v", err)
			continue
		}
		bundle, err := svid.ParseFederation(entry)
		if err == nil && own != nil {
			err = svid.Disjoint(own, bundle)
		}
		if err != nil {
			r.Error(r.Config(), field, "%v", err)
			continue
		}
		if until := bundle.Until(); now.After(until) {
			r.Error(r.Config(), field, "all of its authorities have expired, the last at %s; get the present bundle from the other side (`meshless bundle` prints it there), or take the entry out",
				until.UTC().Format(time.RFC3339))
		}
	}
}
