package verify

import (
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/lint"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/internal/netset"
)

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
	m := manifest.Reread(items, inside, outside, manifest.Model{Spec: v1alpha1.Spec{ClusterDomain: mesh.ClusterDomain, Inbound: v1alpha1.Inbound{Mode: mesh.Inbound.Mode},
		Outbound: v1alpha1.Outbound{PlaintextServices: mesh.Outside}}})
	lint.Surroundings(m, c.report)
	called := map[*pod]netset.Ports{}
	for w, ports := range m.APIServerPorts() {
		called[pods[w]] = ports
	}
	return called
}
