package issue

import (
	"crypto/x509"
	"slices"
	"time"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

const additionalField = "spec.certificates.ca.additional"

// splitBundle divides the certificates of a stored bundle into the authorities that rolled into it and those that the
// config added. The bundle itself says which are which, since a `kustomize build` sees neither the CertificateAuthority
// nor the config of the time.
func splitBundle(item *yaml.RNode, certificates []*x509.Certificate) (rolling, added []*x509.Certificate) {
	listed := certs.ParseDigests(item.GetAnnotations()[api.AdditionalAnnotation])
	for _, c := range certificates {
		if slices.Contains(listed, svid.Fingerprint(c)) {
			added = append(added, c)
		} else {
			rolling = append(rolling, c)
		}
	}
	return rolling, added
}

// checkAdditional checks the authorities that the config adds, and compares them with those in the bundles of the
// state. A render that may not issue leaves the bundles as they are, so the mesh would go on to trust an authority that
// the config has dropped.
func (i *issuer) checkAdditional(additional, rolling []*x509.Certificate) {
	for n, ca := range additional {
		switch {
		case slices.ContainsFunc(rolling, func(other *x509.Certificate) bool {
			return string(other.RawSubjectPublicKeyInfo) == string(ca.RawSubjectPublicKeyInfo)
		}):
			i.report.Error(i.report.Config(), additionalField, "certificate %d (%q) is an authority of this mesh already", n+1, ca.Subject)
		case i.Now.After(ca.NotAfter):
			i.report.Error(i.report.Config(), additionalField, "certificate %d (%q) expired at %s; take it out, no proxy accepts what it signed", n+1, ca.Subject, ca.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	if i.Mode == Issue || i.report.Failed() {
		return
	}
	for _, item := range i.model.State.Bundles {
		certificates, _ := svid.ParseCertificates([]byte(item.GetDataMap()[api.BundleFile])) // storedBundle has read it
		if _, added := splitBundle(item, certificates); !sameCertificates(added, additional) {
			i.report.ErrorIn(item, report.Data(api.BundleFile), "does not hold the authorities that %s adds, or holds others; run `meshless issue DIR` on the kustomization or "+
				"package and commit what it writes", additionalField)
			return
		}
	}
}
