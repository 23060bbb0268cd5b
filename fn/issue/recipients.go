package issue

import (
	"fmt"
	"slices"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/seal"
)

// Recipients are those to whom keys are sealed.
type Recipients struct {
	ca          seal.Recipients
	workloads   seal.Recipients
	byNamespace map[string]seal.Recipients
}

// ParseRecipients reads the recipients of a config, and reports what is wrong with them.
func ParseRecipients(config *v1alpha1.MutualTLS, r *report.Report) *Recipients {
	spec := config.Spec
	if spec.UsesCertManager() {
		return &Recipients{}
	}
	object := report.Object{APIVersion: config.APIVersion, Kind: config.Kind, Name: config.Name}
	parse := func(field string, texts []string) seal.Recipients {
		recipients, err := seal.ParseRecipients(texts)
		if err != nil {
			r.Error(object, field, "%v", err)
		}
		return recipients
	}
	s := &Recipients{byNamespace: map[string]seal.Recipients{}}
	s.ca = parse("spec.certificates.ca.recipients", spec.Certificates.CA.Recipients)
	s.workloads = parse("spec.sealing.recipients", spec.Sealing.Recipients)
	for namespace, texts := range spec.Sealing.Namespaces {
		s.byNamespace[namespace] = parse(fmt.Sprintf("spec.sealing.namespaces[%s]", namespace), texts)
		s.refuseShared(object, fmt.Sprintf("spec.sealing.namespaces[%s]", namespace), texts, spec, r)
	}
	s.refuseShared(object, "spec.sealing.recipients", spec.Sealing.Recipients, spec, r)
	return s
}

// refuseShared keeps the CA key out of the cluster: whoever could open it there could mint any identity.
func (s *Recipients) refuseShared(object report.Object, field string, texts []string, spec v1alpha1.Spec, r *report.Report) {
	if i := slices.IndexFunc(texts, func(t string) bool { return slices.Contains(spec.Certificates.CA.Recipients, t) }); i >= 0 {
		r.Error(object, field, "entry %d is a recipient of the CA as well, so the cluster could open the CA's key and mint any identity; use an identity of its own for the CA", i)
	}
}

// of returns the recipients of a namespace's workload keys.
func (s *Recipients) of(namespace string) seal.Recipients {
	if own, ok := s.byNamespace[namespace]; ok {
		return own
	}
	return s.workloads
}
