//go:build linux

package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Lookup finds the addresses of a family, 4 or 6, of a full name, by the pod's name server and from inside the pod.
func (p *Pod) Lookup(ctx context.Context, name string, family int) ([]netip.Addr, error) {
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return p.DialContext(ctx, network, net.JoinHostPort(dnsAddr.String(), "53"))
	}}
	return resolver.LookupNetIP(ctx, fmt.Sprintf("ip%d", family), strings.TrimSuffix(name, ".")+".")
}
