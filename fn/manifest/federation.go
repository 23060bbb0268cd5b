package manifest

import (
	"fmt"
	"net/netip"

	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
)

// federation is that of the mesh maps. An address that is of a federated network and also one of a Service of ours
// could be answered by nobody, and a workload that bypasses its proxy on the way there would send plaintext: both are
// refused here, where they can be named.
func (m *Model) federation(r *report.Report) []meshmap.Federation {
	var federation []meshmap.Federation
	for i, f := range m.Spec.Federation {
		field := fmt.Sprintf("spec.federation[%d]", i)
		entry, err := f.Mesh()
		if err != nil {
			r.Error(r.Config(), field+".bundle", "%v", err) // Validate has read it
			continue
		}
		federation = append(federation, entry)
		for _, p := range f.CIDRs {
			m.refuseOurs(p, field, r)
		}
	}
	return federation
}

func (m *Model) refuseOurs(p netip.Prefix, field string, r *report.Report) {
	for _, s := range m.Services {
		for _, ip := range s.ClusterIPs {
			if p.Contains(ip) {
				r.Error(s.Object, s.addressFields[ip], "has the address %s, which is in %s, a network of another trust domain (%s.cidrs); narrow the network", ip, p, field)
			}
		}
	}
	for _, w := range m.Workloads {
		for _, x := range w.Overrides.ExcludeOutboundCIDRs {
			if p.Overlaps(x) {
				r.Error(w.Object, w.Field(report.Annotation(api.ExcludeOutboundCIDRsAnnotation)),
					"%s overlaps with %s, a network of another trust domain (%s.cidrs), where plaintext must not go", x, p, field)
			}
		}
	}
}
