package destination

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
)

// plaintext tells whether the port opted out: every Service that the map lists agrees. Other names know nothing of
// ports. Of a pod without such a Service only the proxy's own ports are known.
func (e evidence) plaintext(port uint16) bool {
	if len(e.matches) == 0 {
		return e.pod && proxyPort(port)
	}
	return !slices.ContainsFunc(e.matches, func(m match) bool { return !m.plaintext(port) })
}

// contradicted tells whether what DNS names beside the Services that opted out speaks against them: a Service that the
// map would list, had it opted out, or a pod of another namespace. Somebody has listed the pod behind a Service of his.
// At a pod, the ports of its proxy are plaintext whoever lists it.
func (e evidence) contradicted(claims []Claim, port uint16) bool {
	switch {
	case proxyPort(port):
		return e.service
	case len(e.named) > 0:
		return true
	}
	return len(e.pods) > 0 && slices.ContainsFunc(claims, func(c Claim) bool { return c.Namespace != e.pods[0].Namespace })
}

// proxyPort tells whether port is the proxy's own for metrics or health, which init leaves alone and which are never
// TLS.
func proxyPort(port uint16) bool { return port == api.MetricsPort || port == api.HealthPort }

// unconfirmed is a Service that claims the address without a name of its own there, or nil. Mutual TLS to the
// identities of such a Service is safe; plaintext would go to any server that has the address.
func unconfirmed(matches []match) *meshmap.Service {
	for _, m := range matches {
		if m.claimed && !slices.ContainsFunc(matches, func(o match) bool { return !o.claimed && o.service == m.service }) {
			return m.service
		}
	}
	return nil
}

// noPlaintext is why an address must not get plaintext although all Services found there agree to it, or empty.
func noPlaintext(addr netip.Addr, matches []match, err, uncertain error) string {
	unsure := cmp.Or(err, uncertain)
	claim := unconfirmed(matches)
	switch {
	case claim == nil && unsure == nil:
		return ""
	case claim == nil:
		return "needs DNS to tell whether " + addr.String() + " belongs to other Services as well: " + unsure.Error()
	case unsure != nil:
		return "needs DNS to confirm that " + addr.String() + " is of " + claim.Host + ": " + unsure.Error()
	}
	return "needs DNS to confirm that " + addr.String() + " is of " + claim.Host + ": it has no such name"
}

// plaintext tells whether the port opted out. The proxy's own metrics and health ports, which init leaves alone, are
// never TLS; as ports of a Service those numbers mean nothing special.
func (m match) plaintext(port uint16) bool {
	service := m.service.PlaintextPorts.Contains(port)
	target := proxyPort(port) || m.service.PlaintextTargetPorts.Contains(port)
	switch {
	case m.either:
		return service && target
	case m.endpoint:
		return target
	}
	return service
}
