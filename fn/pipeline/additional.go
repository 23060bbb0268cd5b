package pipeline

import (
	"crypto/x509"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

const additionalField = "spec.certificates.ca.additional"

func fingerprints(certificates []*x509.Certificate) string {
	var names []string
	for _, c := range certificates {
		names = append(names, svid.Fingerprint(c))
	}
	return strings.Join(names, ",")
}

// splitBundle divides the certificates of a stored bundle into the authorities that rolled into it and those that the
// config added. The bundle itself says which are which, since a `kustomize build` sees neither the CertificateAuthority
// nor the config of the time.
func splitBundle(item *yaml.RNode, certificates []*x509.Certificate) (rolling, added []*x509.Certificate) {
	listed := strings.Split(item.GetAnnotations()[api.AdditionalAnnotation], ",")
	for _, c := range certificates {
		if slices.Contains(listed, svid.Fingerprint(c)) {
			added = append(added, c)
		} else {
			rolling = append(rolling, c)
		}
	}
	return rolling, added
}

// certificatesOf are those of a bundle of the state that storedBundle has read.
func certificatesOf(item *yaml.RNode) []*x509.Certificate {
	certificates, _ := svid.ParseCertificates([]byte(item.GetDataMap()[api.BundleFile]))
	return certificates
}

// checkAdditional judges the authorities that the config adds, and holds them against those that the bundles of the
// state hold: a render that may not issue leaves the bundles as they are, so with one that the config adds no more the
// mesh would go on to trust it.
func (c *certifier) checkAdditional(rolling []*x509.Certificate, mayIssue bool) {
	for i, ca := range c.additional {
		switch {
		case slices.ContainsFunc(rolling, func(other *x509.Certificate) bool {
			return string(other.RawSubjectPublicKeyInfo) == string(ca.RawSubjectPublicKeyInfo)
		}):
			c.report.Error(c.report.Config(), additionalField, "certificate %d (%q) is an authority of this mesh already", i+1, ca.Subject)
		case c.options.Now.After(ca.NotAfter):
			c.report.Error(c.report.Config(), additionalField, "certificate %d (%q) expired at %s; take it out, no proxy accepts what it signed", i+1, ca.Subject, ca.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	if mayIssue || c.report.Failed() {
		return
	}
	for _, item := range c.model.State.Bundles {
		if _, added := splitBundle(item, certificatesOf(item)); !sameCertificates(added, c.additional) {
			c.report.Error(report.ObjectOf(item), "data["+api.BundleFile+"]", "does not hold the authorities that %s adds, or holds others; run `meshless issue DIR` on the kustomization or "+
				"package and commit what it writes", additionalField)
			return
		}
	}
}
