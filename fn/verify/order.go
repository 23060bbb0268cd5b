package verify

import (
	"cmp"
	"strconv"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
)

// inTime reports state that Argo CD or Helm applies later than pods that mount it, or takes away before: the pods would
// wait for it, and Argo CD and Helm for the pods.
func (c *checker) inTime(items []*yaml.RNode) {
	state := map[string]*yaml.RNode{} // by kind, namespace and name
	for _, item := range items {
		if item.GetAnnotations()[api.IdentityAnnotation] != "" {
			o := report.ObjectOf(item)
			state[o.Kind+"/"+namespacedName(o, o.Name)] = item
		}
	}
	for _, p := range c.injected {
		if p.declaration != nil {
			continue
		}
		files := p.plan.Files
		for _, name := range []string{
			"Secret/" + namespacedName(p.object, files.LeafSecret),
			manifest.ManagedKind + "/" + namespacedName(p.object, certificateName(p.plan.Workload.SPIFFEID)),
			"ConfigMap/" + namespacedName(p.object, files.Bundle.Name),
			"ConfigMap/" + namespacedName(p.object, cmp.Or(files.Mesh, api.MeshName(p.plan.Package))),
		} {
			if item := state[name]; item != nil {
				c.before(item, p)
			}
		}
	}
	for _, item := range c.hookCopies {
		c.hookCopy(item)
	}
}

// before reports an object of the state that is not there when the pods start that mount it.
func (c *checker) before(item *yaml.RNode, p *pod) {
	const way = "; render again, after whatever wrote these annotations"
	if event := manifest.ApartHook(p.item); event != "" {
		w := manifest.Workload{Node: p.item}
		have, want := item.GetAnnotations(), w.HookAnnotations()
		for _, key := range manifest.OrderAnnotations {
			n, errHave := strconv.Atoi(have[key])
			limit, errWant := strconv.Atoi(want[key])
			if numbers := errHave == nil && errWant == nil; numbers && n > limit || !numbers && have[key] != want[key] {
				c.report.ErrorIn(item, report.Annotation(key), "is %q, and must be %q: %s mounts it, and is a hook of %s"+way, have[key], want[key], p.object, event)
			}
		}
		return
	}
	if _, hook := manifest.ArgoHooks(item); hook {
		c.report.ErrorIn(item, report.Annotation(manifest.ArgoHookAnnotation), "makes it a hook of Argo CD or Helm, which comes and goes, and %s mounts it"+way, p.object)
		return
	}
	if mine, theirs := manifest.Wave(item), manifest.Wave(p.item); manifest.InSync(p.item) && mine > theirs {
		c.report.ErrorIn(item, report.Annotation(manifest.WaveAnnotation), "is applied by Argo CD in wave %d, and %s, which mounts it, in wave %d: the sync would wait for ever"+way, mine, p.object, theirs)
	}
}

// hookCopy holds the copy of a bundle or a mesh map for a hook against the original.
func (c *checker) hookCopy(item *yaml.RNode) {
	object, identity := report.ObjectOf(item), item.GetAnnotations()[api.IdentityAnnotation]
	namespace := manifest.EffectiveNamespace(object)
	key, original := api.BundleFile, c.bundleObjects[namespace]
	if _, mesh := item.GetDataMap()[api.MeshFile]; mesh {
		key, original = api.MeshFile, c.meshObjects[namespace]
	}
	c.shaped(item, shape{apiVersion: "v1", name: object.Name, fields: []string{"data"}, data: []string{key}})
	if original == nil || original.GetDataMap()[key] != item.GetDataMap()[key] {
		c.report.Error(object, report.Data(key), "is not what the ConfigMap of the namespace holds, of which it is the copy for %s; render the whole package again", identity)
	}
	if mesh := c.meshes[namespace]; mesh != nil {
		c.ofPackage(item, mesh.Package)
	}
	for _, p := range c.injected {
		if p.plan.Workload.SPIFFEID == identity {
			return
		}
	}
	if !c.unread {
		c.report.Error(object, "", "is a copy for %s, and no injected workload of that identity is in the input", identity)
	}
}

// meshOf is the mesh map that a pod mounts; nil where it is not among the manifests.
func (c *checker) meshOf(p *pod) *meshmap.Map {
	if files := p.plan.Files; files.Mesh != "" && !c.copied(p, files.Mesh) {
		return nil
	}
	return c.meshes[p.namespace()]
}

// copied tells whether the copy of that name for a pod is among the manifests.
func (c *checker) copied(p *pod, name string) bool {
	for _, item := range c.hookCopies {
		o := report.ObjectOf(item)
		if o.Name == name && manifest.EffectiveNamespace(o) == p.namespace() && item.GetAnnotations()[api.IdentityAnnotation] == p.plan.Workload.SPIFFEID {
			return true
		}
	}
	return false
}
