package pipeline

import (
	"path"
	"strconv"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/internal/api"
)

// writeHookCopies ensures the copies of bundle and mesh map for a hook that is applied without the state of the package.
// Were the originals the hooks, Argo CD and Helm would delete them before each sync, under running pods.
func (o *output) writeHookCopies(w *manifest.Workload, bundle, mesh string, keep map[*yaml.RNode]bool) {
	state, id := o.model.State, w.ID.String()
	write := func(existing *yaml.RNode, name, key, text string) {
		if existing == nil {
			existing = o.add("v1", "ConfigMap", path.Join(w.Namespace, strings.TrimPrefix(name, api.NamePrefix)+".yaml"))
		}
		o.setName(existing, name, w.Namespace)
		annotate(existing, map[string]string{api.IdentityAnnotation: id, api.PackageAnnotation: o.model.Package})
		ensureText(node.Child(existing.YNode(), "data"), key, node.Literal(text))
		keep[existing], o.order[existing] = true, w.HookAnnotations()
	}
	if w.Plan.Files.Bundle.Name == w.HookBundleName() {
		write(state.HookBundles[id], w.HookBundleName(), api.BundleFile, bundle)
	}
	write(state.HookMeshes[id], w.HookMeshName(), api.MeshFile, mesh)
}

// writeOrder has Argo CD and Helm apply the state before the pods that need it. On state these annotations are the
// render's: it follows a workload that changes its wave, and one that is no hook any more.
func (o *output) writeOrder(keep map[*yaml.RNode]bool) {
	waves := o.model.StateWaves()
	for _, item := range o.items {
		if !keep[item] {
			continue
		}
		order := o.order[item]
		if wave := waves[manifest.StateNamespace(item)]; order == nil && wave != 0 {
			order = map[string]string{manifest.WaveAnnotation: strconv.Itoa(wave)}
		}
		for _, key := range manifest.OrderAnnotations {
			have := node.Get(item.YNode(), "metadata", "annotations", key)
			if have != nil && strings.TrimSpace(have.Value) == "Skip" && order[key] == "" {
				continue // somebody keeps it from being applied, which is refused
			}
			if have != nil || order[key] != "" {
				setOrDrop(item, key, order[key])
			}
		}
	}
}
