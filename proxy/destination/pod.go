package destination

import (
	"context"
	"fmt"
	"slices"

	"github.com/miekg/dns"

	"github.com/meshless-dev/meshless/internal/meshmap"
)

// KnowsPod tells whether DNS knows that this pod is of the mesh, by an address of its own: forward, by the name that an
// endpoint of the members Service has, or backward. Nothing is cached. The error says why there is nothing to wait for:
// no package, no address, or no DNS that knows the Service that every cluster has.
func (r *Resolver) KnowsPod(ctx context.Context, mesh *meshmap.Map) (bool, error) {
	m, own := r.MapOf(mesh), r.ownAddresses()
	if m.members == "" || len(own) == 0 {
		return false, fmt.Errorf("the map names no package, or the pod has no address")
	}
	if _, err := r.client.probe(ctx, mesh.ClusterDomain); err != nil {
		return false, err
	}
	for _, addr := range own {
		forward, _, err := r.client.addresses(ctx, dashed(addr)+"."+m.members+".svc."+mesh.ClusterDomain, recordType(addr))
		if err == nil && slices.Contains(forward, addr) {
			return true, nil
		}
		answer, err := r.client.reverse(ctx, addr)
		if err == nil && namesMember(answer, m.members, mesh.ClusterDomain) {
			return true, nil
		}
	}
	return false, nil
}

func namesMember(answer *dns.Msg, members, domain string) bool {
	return slices.ContainsFunc(pointers(answer, domain), func(p pointer) bool { return p.name.Service == members })
}
