package podplan_test

import (
	"errors"
	"strings"
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

// TestDirect: a pod without redirect rules has nothing that needs them, and its ports do not stand in each other's way.
// The annotation that is at fault is named where it can be.
func TestDirect(t *testing.T) {
	direct := func(ports ...uint16) podplan.ProxyArgs {
		return podplan.ProxyArgs{Direct: &podplan.Direct{Ports: netset.PortsOf(ports...)}}
	}
	for name, test := range map[string]struct {
		plan             podplan.Plan
		want, annotation string
	}{
		"apart":            {podplan.Plan{Serve: direct(80, 81, 6379, 16379, 26379, 4369, 5672, 15672, 15692, 25672, 8080, 18080, 27017, 50051, 65535), Redirect: podplan.InitArgs{ExcludeInboundPorts: netset.PortsOf(22)}}, "", ""},
		"none":             {podplan.Plan{Serve: direct()}, "", ""},
		"at one":           {podplan.Plan{Serve: direct(10080, 34080)}, "ports 10080 and 34080 are both taken at 16080", ""},
		"at a port":        {podplan.Plan{Serve: direct(80, 81, 22081)}, "port 22081 is where the proxy takes what is for port 81", ""},
		"at the proxy's":   {podplan.Plan{Serve: direct(21021)}, "what is for port 21021 would be taken at 15021", ""},
		"at an excluded":   {podplan.Plan{Serve: direct(80), Redirect: podplan.InitArgs{ExcludeInboundPorts: netset.PortsOf(22080)}}, "it is where the proxy takes what is for port 80", api.ExcludeInboundPortsAnnotation},
		"excluded as well": {podplan.Plan{Serve: direct(80), Redirect: podplan.InitArgs{ExcludeInboundPorts: netset.PortsOf(80)}}, "port 80 never passes the proxy", ""},
		"transparent":      {podplan.Plan{Serve: direct(80), Workload: podplan.Workload{TransparentPorts: netset.PortsOf(80)}}, "wants the rules of meshless-init", api.TransparentPortsAnnotation},
		"users":            {podplan.Plan{Serve: direct(80), Redirect: podplan.InitArgs{ExcludeOutboundUIDs: netset.UIDs{7}}}, "--exclude-outbound-uids: 7 needs the rules", ""},
	} {
		test.plan.Redirect.TransparentPorts = nil
		err := test.plan.Validate()
		wrong := new(podplan.Contradiction)
		if errors.As(err, &wrong); wrong.Annotation != test.annotation || (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v of %q, want %q of %q", name, err, wrong.Annotation, test.want, test.annotation)
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
