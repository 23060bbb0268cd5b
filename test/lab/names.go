//go:build linux

package lab

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
)

// Lookup finds the addresses of a family, 4 or 6, of a full name, by the pod's name server and from inside the pod.
func (p *Pod) Lookup(ctx context.Context, name string, family int) ([]netip.Addr, error) {
	return p.lab.resolver(p.NS).LookupNetIP(ctx, fmt.Sprintf("ip%d", family), strings.TrimSuffix(name, ".")+".")
}

// DNS is the address of the cluster's name server.
func (l *Lab) DNS() netip.Addr { return l.dns }
