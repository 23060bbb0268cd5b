package verify

import (
	"fmt"
	"strings"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// exclusions reports, where exclusions are forbidden, what a workload of the mesh sends or takes without mutual TLS, in
// one line. It reads what init, proxy and mesh map are told, so it does not matter whether config or annotations said
// it.
func (c *checker) exclusions(object report.Object, args podplan.InitArgs, permissive netset.Ports) {
	if !c.options.NoExclusions {
		return
	}
	var holes []string
	add := func(what, list string) {
		if list != "" {
			holes = append(holes, what+" "+list)
		}
	}
	networks := make([]string, len(args.ExcludeOutboundCIDRs))
	for i, p := range args.ExcludeOutboundCIDRs {
		networks[i] = p.String()
	}
	if mesh := c.meshes[manifest.EffectiveNamespace(object)]; mesh != nil && mesh.Inbound.Mode == meshmap.Permissive {
		holes = append(holes, "every port permissive")
	} else {
		add("permissive ports", permissive.String())
	}
	add("inbound ports", args.ExcludeInboundPorts.String())
	add("inbound interfaces", args.ExcludeInboundInterfaces.String())
	add("outbound ports", args.ExcludeOutboundPorts.String())
	add("outbound networks", strings.Join(networks, ","))
	add("outbound interfaces", args.ExcludeOutboundInterfaces.String())
	add("outbound users", args.ExcludeOutboundUIDs.String())
	if len(holes) > 0 {
		c.report.Error(object, "", "has exclusions (%s), which --no-exclusions forbids: take them out of its annotations or the config", strings.Join(holes, "; "))
	}
}

// outside reports, where exclusions are forbidden, a workload without a proxy.
func (c *checker) outside(object report.Object, why string) {
	if c.options.NoExclusions {
		c.report.Error(object, "", "is not in the mesh (%s), which --no-exclusions forbids", why)
	}
}

// whyOutside is why a workload that says so is not in the mesh.
func whyOutside(hostNetwork bool) string {
	if hostNetwork {
		return "hostNetwork: true"
	}
	return fmt.Sprintf("%s: disabled", api.InjectAnnotation)
}
