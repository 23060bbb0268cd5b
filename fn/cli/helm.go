package cli

import (
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/inject"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
)

// Annotations of Helm: the events at which an object is applied instead of with the release, and the template of an
// object, which Helm 4 puts on each that it hands to a post-renderer.
const (
	helmHook   = "helm.sh/hook"
	helm4Input = "postrenderer.helm.sh/postrender-filename"
)

// warnHooks warns of hooks in the mesh, which Helm 3 keeps from a post-renderer.
func warnHooks(items []*yaml.RNode, kinds manifest.Kinds, r *report.Report) {
	for _, item := range manifest.Flatten(items) {
		events := hookEvents(item)
		if len(events) == 0 || item.GetAnnotations()[helm4Input] != "" || !injected(item, kinds) {
			continue
		}
		r.Warn(report.ObjectOf(item), report.Annotation(helmHook), "is %s: Helm 3 hands no hook to a post-renderer, where this pod is not in the mesh and Strict workloads refuse it. "+
			"Use Helm 4; or apply this stream instead; or make it a Job of the release; or let it in with meshless.dev/permissive-ports on what it calls", strings.Join(events, ","))
	}
}

// injected tells whether an item, or one of a List, has pods in the mesh.
func injected(item *yaml.RNode, kinds manifest.Kinds) bool {
	return slices.ContainsFunc(manifest.Flatten([]*yaml.RNode{item}), func(item *yaml.RNode) bool {
		templates, _ := kinds.Templates(item)
		return slices.ContainsFunc(templates, func(t manifest.Template) bool { return inject.Injected(item, t.Path) })
	})
}

// checkHelmGroup refuses a stream of hooks alone, as Helm 4 hands it over with the strategy "separate".
func checkHelmGroup(items []*yaml.RNode, r *report.Report) {
	apart := len(items) > 0
	for _, item := range items {
		if item.GetAnnotations()[helm4Input] != "" && len(hookEvents(item)) == 0 {
			apart = false
		}
	}
	i := slices.IndexFunc(items, func(item *yaml.RNode) bool { return item.GetAnnotations()[helm4Input] != "" })
	if apart && i >= 0 {
		r.Error(report.ObjectOf(items[i]), report.Annotation(helmHook), "comes with other hooks alone: each half of a release would get mesh maps that lack the other. "+
			"Give Helm the post-render strategy combined, which is its default, or nohooks")
	}
}

// hookEvents are the events of Helm at which an object is applied; none where it belongs to the release.
func hookEvents(item *yaml.RNode) (events []string) {
	for event := range strings.SplitSeq(item.GetAnnotations()[helmHook], ",") {
		if event = strings.TrimSpace(event); event != "" {
			events = append(events, event)
		}
	}
	return events
}
