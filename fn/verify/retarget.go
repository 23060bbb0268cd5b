package verify

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/retarget"
	"github.com/meshless-dev/meshless/internal/api"
)

// stripped are the Services and NetworkPolicies of the input as a render would read them, beside how they stand there.
type stripped struct{ item, plain *yaml.RNode }

// stripAll strips copies of what package retarget may have written into.
func (c *checker) stripAll(items []*yaml.RNode) (list []stripped) {
	for _, item := range items {
		if !retarget.Concerns(item) {
			continue
		}
		s := stripped{item, item}
		if retarget.Edited(item) {
			s.plain = item.Copy()
			if err := retarget.Strip(s.plain); err != nil {
				c.report.ErrorIn(item, "metadata.annotations", "%v", err)
				continue
			}
		}
		list = append(list, s)
	}
	return list
}

// plain are the items with the ports of apps in Services and NetworkPolicies, of which what callers reach is said.
func (c *checker) plain(items []*yaml.RNode) []*yaml.RNode {
	plain := slices.Clone(items)
	for i, item := range items {
		if !retarget.Concerns(item) || !retarget.Edited(item) {
			continue
		}
		if left := item.Copy(); retarget.Strip(left) == nil { // stripAll reports an error
			plain[i] = left
		}
	}
	return plain
}

// retargeted leads Services and NetworkPolicies to the proxies of workloads without redirect rules anew, and reports
// what is then another: a Service could lead past a proxy, or a policy open what only the proxy may open.
func (c *checker) retargeted(items []*yaml.RNode, all []stripped, m *manifest.Model, pkg string) {
	again := make([]*yaml.RNode, 0, len(items))
	direct := slices.ContainsFunc(m.Workloads, func(w *manifest.Workload) bool { return w.Plan.NoRedirect() })
	for _, s := range all {
		if direct && s.plain == s.item {
			s.plain = s.item.Copy() // it may be edited
		}
		again = append(again, s.plain)
	}
	m.NamespaceObjects = namespaceObjects(items)
	found := &report.Report{}
	ours := retarget.Apply(m, append(again, others(items)...), found)
	for _, f := range found.Findings() {
		switch {
		case f.Severity == "error":
			c.report.Error(f.Object, f.Field, "%s", f.Message)
		case c.options.EveryWorkload:
			c.report.Warn(f.Object, f.Field, "%s", f.Message)
		}
	}
	if !found.Failed() { // else it is not known what must stand there
		for i, s := range all {
			c.compareWhole(s.item, again[i])
		}
	}
	c.directPolicies(items, ours, pkg)
}

// others are the items that package retarget reads and never edits.
func others(items []*yaml.RNode) []*yaml.RNode {
	return slices.DeleteFunc(slices.Clone(items), func(item *yaml.RNode) bool { return retarget.Concerns(item) })
}

// namespaceObjects are the Namespaces of the input by their names.
func namespaceObjects(items []*yaml.RNode) map[string]corev1.Namespace {
	found := map[string]corev1.Namespace{}
	for _, item := range items {
		var n corev1.Namespace
		if item.GetApiVersion() == "v1" && item.GetKind() == "Namespace" && node.Decode(item, &n) == nil {
			found[n.Name] = n
		}
	}
	return found
}

// compareWhole reports where a Service or NetworkPolicy is not as a render leaves it.
func (c *checker) compareWhole(item, again *yaml.RNode) {
	if equal(item.YNode(), again.YNode()) {
		return
	}
	object := report.ObjectOf(item)
	have, errHave := node.Values(item.YNode())
	want, errWant := node.Values(again.YNode())
	if errHave != nil || errWant != nil {
		c.report.Error(object, "spec", "cannot be compared")
		return
	}
	for _, d := range compare("", have, want) {
		c.report.Error(object, d.path[1:], "%s: pods without redirect rules are reached at the ports of their proxies alone; render the whole package again", d)
	}
}

// directPolicies holds the NetworkPolicies that shut the ports of apps against what a render writes.
func (c *checker) directPolicies(items []*yaml.RNode, ours []retarget.Policy, pkg string) {
	left := slices.DeleteFunc(slices.Clone(items), func(item *yaml.RNode) bool {
		return !manifest.IsDirectPolicy(item) || item.GetAnnotations()[api.IdentityAnnotation] == ""
	})
	for _, p := range ours {
		identity := p.Workload.ID.String()
		i := slices.IndexFunc(left, func(item *yaml.RNode) bool {
			return item.GetAnnotations()[api.IdentityAnnotation] == identity && manifest.NamespaceOf(item) == p.Workload.Namespace
		})
		if i < 0 {
			c.report.Error(p.Workload.Object, "", "its %s %s is missing, without which everyone reaches the ports of the app past the proxy; render the whole package again",
				manifest.NetworkPolicyKind, p.Workload.DirectPolicyName())
			continue
		}
		c.shaped(left[i], shape{apiVersion: manifest.NetworkPolicyAPIVersion, name: p.Workload.DirectPolicyName(), fields: []string{"spec"}})
		c.ofPackage(left[i], pkg)
		c.compareSpec(left[i], p.Spec, ": it opens the ports of the proxy, and no others")
		left = slices.Delete(left, i, i+1)
	}
	for _, item := range left {
		c.report.Error(report.ObjectOf(item), "", "is a NetworkPolicy of meshless for %s, which has redirect rules or is not in the input; delete it, or render the whole package again", item.GetAnnotations()[api.IdentityAnnotation])
	}
}

// servicePorts are what a map must say of the ports of Services: those that the manifests show, and of others what the
// first map says that has any, since one config names them for all.
func (c *checker) servicePorts(want manifest.Sides, namespace string) map[string]string {
	shown := want.ServicePorts(namespace)
	if shown == nil {
		return nil
	}
	texts := map[string]string{}
	for _, m := range c.meshMaps {
		if len(m.mesh.ServicePorts) > 0 {
			for name, ports := range m.mesh.ServicePorts {
				texts[name] = ports.String()
			}
			break
		}
	}
	for _, s := range want.Model.Services {
		delete(texts, s.Name+"."+s.Namespace)
	}
	for name, ports := range shown {
		texts[name] = ports.String()
	}
	return texts
}
