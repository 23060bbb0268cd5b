package podplan_test

import (
	"errors"
	"testing"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// TestPortMode: what bypasses the proxy cannot be kept Strict, and what is Strict by name is Strict everywhere.
func TestPortMode(t *testing.T) {
	p := &podplan.Plan{Workload: podplan.Workload{PermissivePorts: netset.PortsOf(80), TLSPassthroughPorts: netset.PortsOf(8443), StrictPorts: netset.PortsOf(5432)}}
	p.Redirect.ExcludeInboundPorts = netset.PortsOf(22)
	for port, want := range map[uint16][2]podplan.PortMode{
		22:   {podplan.PortExcluded, podplan.PortExcluded},
		80:   {podplan.PortPermissive, podplan.PortPermissive},
		8443: {podplan.PortTLSPassthrough, podplan.PortPermissive},
		5432: {podplan.PortStrict, podplan.PortStrict},
		9000: {podplan.PortStrict, podplan.PortPermissive},
	} {
		if got := [2]podplan.PortMode{p.PortMode(port, meshmap.Strict), p.PortMode(port, meshmap.Permissive)}; got != want {
			t.Errorf("port %d: got %v, want %v", port, got, want)
		}
	}
}

// TestContradictions: a port has one mode.
func TestContradictions(t *testing.T) {
	port := netset.PortsOf(80)
	for want, p := range map[string]podplan.Plan{
		api.ProxyProtocolPortsAnnotation:  {Workload: podplan.Workload{ProxyProtocolPorts: port}, Redirect: podplan.InitArgs{ExcludeInboundPorts: port}},
		api.StrictPortsAnnotation:         {Workload: podplan.Workload{StrictPorts: port, PermissivePorts: port}},
		api.TLSPassthroughPortsAnnotation: {Workload: podplan.Workload{TLSPassthroughPorts: port, PermissivePorts: port}},
		"":                                {Workload: podplan.Workload{TLSPassthroughPorts: port, PermissivePorts: netset.PortsOf(81), StrictPorts: netset.PortsOf(82), ProxyProtocolPorts: port}},
	} {
		wrong := new(podplan.Contradiction)
		if errors.As(p.Validate(), &wrong); wrong.Annotation != want {
			t.Errorf("got %q, want %q", wrong.Annotation, want)
		}
	}
}
