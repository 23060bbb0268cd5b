package verify

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
)

// maps folds the plans and the Services of the input into what a mesh map says of Services, and holds every map of the
// input against it: a Service that a map lacks, or lists wrongly, would be dialed in the clear or refused. What the
// config says for the whole mesh must stand in every map alike.
func (c *checker) maps(items []*yaml.RNode) {
	if len(c.meshMaps) == 0 || len(c.pods) == 0 && !c.options.EveryWorkload { // the state of a kustomization alone
		return
	}
	if c.unread {
		return // what must stand in the maps is not known
	}
	first := c.meshMaps[0]
	fronts := c.stripAll(items)
	want, workloads := c.fold(items, fronts, first.mesh)
	c.certificates(workloads)
	c.named(workloads)
	namespaces := want.Namespaces()
	for _, m := range c.meshMaps {
		c.alike(first, m)
		c.policies(m)
		namespace := manifest.EffectiveNamespace(m.object)
		found := compareServices(m.mesh.Services, want.Services(namespace))
		others := slices.DeleteFunc(slices.Clone(namespaces), func(n string) bool { return n == namespace })
		if have, want := fmt.Sprint(m.mesh.OpenPodPorts), fmt.Sprint(want.OpenPodPorts); have != want {
			found = append(found, difference{"openPodPorts", have, want})
		}
		if have, want := portTexts(m.mesh.ServicePorts), c.servicePorts(want, namespace); fmt.Sprint(have) != fmt.Sprint(want) {
			found = append(found, difference{"servicePorts", fmt.Sprint(have), fmt.Sprint(want)})
		}
		if !slices.Equal(m.mesh.Namespaces, others) {
			found = append(found, difference{"namespaces", brief(m.mesh.Namespaces), brief(others)})
		}
		for _, d := range found {
			c.report.Error(m.object, report.Data(api.MeshFile), "%s %s, as the workloads behind it say; render the whole package again", d.path, d)
		}
		if !slices.Contains(namespaces, namespace) {
			c.report.Error(m.object, "", "is the mesh map of namespace %q, and no injected workload of it is in the input; render the whole package again", namespace)
		}
	}
	c.sides(first, want)
	c.ofOurs(first, want)
	c.retargeted(items, fronts, want.Model, first.mesh.Package)
}

// portTexts are sets of ports as texts.
func portTexts(sets map[string]netset.Ports) map[string]string {
	texts := map[string]string{}
	for name, ports := range sets {
		texts[name] = ports.String()
	}
	return texts
}

// sides reports Services that the maps call outside of the mesh, and that are in it, and the other way round. Every map
// says the same, so one is looked at.
func (c *checker) sides(first meshMap, want manifest.Sides) {
	for _, name := range want.Outside {
		if !slices.Contains(first.mesh.Outside, name) {
			c.report.Error(first.object, report.Data(api.MeshFile), "outside lacks %s, behind which no workload of the mesh is; render the whole package again", name)
		}
	}
	for _, name := range want.InMesh {
		c.report.Error(first.object, report.Data(api.MeshFile), "outside lists %s, behind which are workloads of the mesh: clients would send plaintext there; render the whole package again", name)
	}
}

// fold is what the mesh maps must say of Services, and the workloads of the mesh with the Services in front of them.
func (c *checker) fold(items []*yaml.RNode, fronts []stripped, mesh *meshmap.Map) (manifest.Sides, []*manifest.Workload) {
	var inside, outside []*manifest.Workload
	var services []corev1.Service
	for _, p := range c.pods {
		if p.declaration != nil {
			services = append(services, p.declaration.CoreServices()...)
		}
		if p.plan != nil {
			inside = append(inside, p.asWorkload())
		} else {
			outside = append(outside, p.asWorkload())
		}
	}
	for _, front := range fronts {
		if front.item.GetKind() != "Service" {
			continue
		}
		var s corev1.Service
		if err := node.Decode(front.plain, &s); err != nil {
			c.report.ErrorIn(front.item, "spec", "cannot be read: %v", err)
			continue
		}
		services = append(services, s)
	}
	sides := manifest.FoldServices(inside, outside, services, mesh.ClusterDomain, mesh.Outside, c.report)
	if sides.Model.SharedCA = mesh.SharedCA; c.options.EveryWorkload {
		sides.Model.WarnUnexplained(services, items, c.report)
	}
	return sides, inside
}

// compareServices lists the Services that one list has otherwise than another, by host.
func compareServices(have, want []meshmap.Service) (list []difference) {
	byHost := func(list []meshmap.Service) map[string]*meshmap.Service {
		m := make(map[string]*meshmap.Service, len(list))
		for i := range list {
			m[list[i].Host] = &list[i]
		}
		return m
	}
	haves, wants := byHost(have), byHost(want)
	for _, w := range want {
		h := haves[w.Host]
		if h == nil {
			list = append(list, difference{"service " + w.Host, nil, w})
			continue
		}
		for _, f := range []struct {
			name       string
			have, want string
		}{
			{"identities", fmt.Sprint(h.Identities), fmt.Sprint(w.Identities)},
			{"clusterIPs", fmt.Sprint(h.ClusterIPs), fmt.Sprint(w.ClusterIPs)},
			{"ports", h.Ports.String(), w.Ports.String()},
			{"plaintextPorts", h.PlaintextPorts.String(), w.PlaintextPorts.String()},
			{"plaintextTargetPorts", h.PlaintextTargetPorts.String(), w.PlaintextTargetPorts.String()},
			{"directPorts", h.DirectPorts.String(), w.DirectPorts.String()},
		} {
			if f.have != f.want {
				list = append(list, difference{"service " + w.Host + ": " + f.name, f.have, f.want})
			}
		}
	}
	for _, h := range have {
		if wants[h.Host] == nil {
			list = append(list, difference{"service " + h.Host, h, nil})
		}
	}
	return list
}

// alike reports what one map says of the whole mesh otherwise than the first.
func (c *checker) alike(first, m meshMap) {
	of := func(m *meshmap.Map) *meshmap.Map {
		out := *m
		out.Services, out.RevokedKeys, out.Inbound.Policy, out.Namespace, out.Namespaces, out.ServicePorts = nil, nil, nil, "", nil, nil
		return &out
	}
	have, errHave := jsonOf(of(m.mesh))
	want, errWant := jsonOf(of(first.mesh))
	if errHave != nil || errWant != nil {
		c.report.Error(m.object, report.Data(api.MeshFile), "cannot be compared with that of namespace %q", manifest.EffectiveNamespace(first.object))
		return
	}
	for _, d := range compare("", have, want) {
		c.report.Error(m.object, report.Data(api.MeshFile), "%s %s, as in the map of namespace %q: one config says it for the whole mesh; render the whole package again",
			d.path[1:], d, manifest.EffectiveNamespace(first.object))
	}
	revoked := c.revoked[manifest.EffectiveNamespace(m.object)]
	if listed := slices.Sorted(slices.Values(m.mesh.RevokedKeys)); revoked != nil && !slices.Equal(listed, revoked) {
		c.report.Error(m.object, report.Data(api.MeshFile), "revokedKeys are %s, and the bundle of the namespace says %s; render the whole package again", brief(listed), brief(revoked))
	}
}

// policies reports policies of workloads that the namespace does not have.
func (c *checker) policies(m meshMap) {
	namespace, ids := manifest.EffectiveNamespace(m.object), map[string]bool{}
	for _, p := range c.injected {
		if p.namespace() == namespace {
			ids[p.plan.Workload.SPIFFEID] = true
		}
	}
	for _, policy := range m.mesh.Inbound.Policy {
		if !ids[policy.Workload] {
			c.report.Error(m.object, report.Data(api.MeshFile), "has a policy of %s, which is no workload of namespace %q in the input; render the whole package again", policy.Workload, namespace)
		}
	}
}
