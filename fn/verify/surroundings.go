package verify

import (
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/lint"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/internal/netset"
)

// datagrams reports, where exclusions are forbidden, the ports of UDP and SCTP of Services of the mesh, on purpose or
// not: no proxy protects them.
func (c *checker) datagrams(m *manifest.Model) {
	if !c.options.NoExclusions {
		return
	}
	for _, s := range m.Services {
		var ports []string
		for _, p := range s.Ports {
			if !manifest.IsTCP(p.Protocol) {
				ports = append(ports, manifest.PortName(p))
			}
		}
		if len(ports) > 0 {
			c.report.Error(s.Object, "spec.ports", "has plaintext ports (%s), which --no-exclusions forbids: the mesh protects TCP alone. Take the protocol that runs on TCP, or the port out", strings.Join(ports, ", "))
		}
	}
}

// surroundings says of rendered manifests what a render says of callers, of other meshes and of the cluster: they may
// come from another place than the workloads. It returns the ports of each pod that the API server calls.
func (c *checker) surroundings(items []*yaml.RNode) map[*pod]netset.Ports {
	if c.unread || len(c.meshMaps) == 0 {
		return nil // how pods treat their callers is not known
	}
	var inside, outside []*manifest.Workload
	pods := map[*manifest.Workload]*pod{}
	for _, p := range c.pods {
		w := p.asWorkload()
		if p.plan == nil {
			outside = append(outside, w)
			continue
		}
		inside, pods[w] = append(inside, w), p
	}
	mesh := c.meshMaps[0].mesh // one config says it for all
	m := manifest.Reread(c.plain(items), inside, outside, manifest.Model{Spec: v1alpha1.Spec{ClusterDomain: mesh.ClusterDomain, Inbound: v1alpha1.Inbound{Mode: mesh.Inbound.Mode},
		Outbound: v1alpha1.Outbound{PlaintextServices: mesh.Outside}}})
	lint.Surroundings(m, c.report)
	c.datagrams(m)
	called := map[*pod]netset.Ports{}
	for w, ports := range m.APIServerPorts() {
		called[pods[w]] = ports
	}
	return called
}
