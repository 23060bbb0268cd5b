package destination

import (
	"context"
	"errors"
	"slices"

	"github.com/miekg/dns"

	"github.com/meshless-dev/meshless/internal/meshmap"
)

// ErrNoCluster is a DNS that denies the Service that every cluster has.
var ErrNoCluster = errors.New("DNS denies " + probeService + ", so it is no cluster's")

// KnowsPod tells whether DNS knows that this pod is of the mesh, by an address of its own: forward, by the name that an
// endpoint of the members Service has, or backward. Nothing is cached. The error is ErrNoCluster where there is nothing
// to wait for, or says why DNS does not answer.
func (r *Resolver) KnowsPod(ctx context.Context, mesh *meshmap.Map) (bool, error) {
	m, own := r.MapOf(mesh), r.ownAddresses()
	if m.members == "" || len(own) == 0 {
		return false, ErrNoCluster
	}
	if err := r.client.inCluster(ctx, mesh.ClusterDomain); err != nil {
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

// inCluster is nil where DNS knows the Service that every cluster has.
func (c *client) inCluster(ctx context.Context, domain string) error {
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		addrs, _, err := c.addresses(ctx, probeService+".svc."+domain, kind)
		if err != nil || len(addrs) > 0 {
			return err
		}
	}
	return ErrNoCluster
}

func namesMember(answer *dns.Msg, members, domain string) bool {
	return slices.ContainsFunc(pointers(answer, domain), func(p pointer) bool { return p.name.Service == members })
}
