package manifest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// UnknownPodFields are the PodFields of an item that no known template covers: no injection reaches them. A template
// covers the containers of its own spec. What looks like others below it is no part of it: of a template that somebody
// has planted around them, the API server drops what it does not know, and leaves them.
func (k Kinds) UnknownPodFields(item *yaml.RNode) (fields []string) {
	for _, path := range k.uncovered(item) {
		fields = append(fields, FieldPath(path))
	}
	return fields
}

func (k Kinds) uncovered(item *yaml.RNode) [][]string {
	paths := podPaths(item)
	if len(paths) == 0 { // as of most items, and Find reads the whole of one
		return nil
	}
	templates, _ := k.Find(item)
	return slices.DeleteFunc(paths, func(path []string) bool {
		return slices.ContainsFunc(templates, func(t Template) bool {
			own := append(slices.Clip(t.Path), "spec")
			return len(path) == len(own)+1 && slices.Equal(path[:len(own)], own)
		})
	})
}

// saysDisabled tells whether the pod template around a field is left out on purpose.
func saysDisabled(item *yaml.RNode, path []string) bool {
	template := node.At(item.YNode(), path[:max(0, len(path)-2)]...)
	return node.Scalar(template, "metadata", "annotations", api.InjectAnnotation) == "disabled"
}

// WarnUnknownPods says which pods of an item run outside of the mesh, why, and what takes them in. What a pod template
// leaves out itself is not said.
func (k Kinds) WarnUnknownPods(item *yaml.RNode, r *report.Report) {
	original := item
	item = withoutAliases(item)
	warnChart(item, r)
	uncovered := k.uncovered(item)
	if len(uncovered) == 0 {
		return
	}
	_, known := k.Find(original)
	for _, path := range uncovered {
		if saysDisabled(item, path) {
			continue
		}
		why := fmt.Sprintf("%s of %s is no kind that meshless knows", item.GetKind(), item.GetApiVersion())
		if known {
			why = "no known pod template of its kind is there"
		} else if group, kind, found := k.alike(item); found {
			why += fmt.Sprintf(", and an entry of spec.workloads.templates names kind %q of group %q", kind, group)
		}
		r.Warn(report.ObjectOf(item), FieldPath(path), "makes pods that stay outside of the mesh: %s. %s", why, wayInto(item, path))
	}
}

// alike is a kind that a config adds, and that only its group or its capitals tell from an item's: a mistake, most
// often.
func (k Kinds) alike(item *yaml.RNode) (group, kind string, found bool) {
	for _, key := range slices.Sorted(maps.Keys(k)) {
		group, kind, _ = strings.Cut(key, "/")
		if _, known := builtin[key]; !known && strings.EqualFold(kind, item.GetKind()) {
			return group, kind, true
		}
	}
	return "", "", false
}

// withoutAliases is the item, or where it has YAML aliases a copy in which they are written out.
func withoutAliases(item *yaml.RNode) *yaml.RNode {
	if !node.HasAlias(item.YNode()) {
		return item
	}
	resolved := item.Copy()
	if err := node.ResolveAliases(resolved); err != nil {
		return item // package pipeline says so where it matters
	}
	return resolved
}

// wayInto is what takes the pods into the mesh that come of a field.
func wayInto(item *yaml.RNode, path []string) string {
	if c, composes := controllers[kindOf(item)]; composes {
		return c.why + ". No entry of spec.workloads.templates can change that" + c.way
	}
	for i := range path {
		if n := node.At(item.YNode(), path[:i]...); i > 0 && textOf(n, "apiVersion") != "" && textOf(n, "kind") != "" {
			return fmt.Sprintf("%s holds an object of its own: render that one, as what makes it of this %s writes it (oc process, for a Template)", FieldPath(path[:i]), item.GetKind())
		}
	}
	entry := entryFor(item, path)
	if entry == "" {
		return "Only a whole pod template, with a spec of its own that has containers, can be named in spec.workloads.templates"
	}
	return "To take them in, add to spec.workloads.templates of the config: " + entry
}

// entryFor is the entry of the config for the template that holds a field with containers; "" where that is no
// template: it is no spec, stands at the top, or has a key that no path can hold.
func entryFor(item *yaml.RNode, path []string) string {
	if len(path) < 3 || path[len(path)-2] != "spec" {
		return ""
	}
	template := path[:len(path)-2]
	if containers := node.At(item.YNode(), append(slices.Clip(template), "spec", "containers")...); containers == nil || containers.Kind != yaml.SequenceNode {
		return ""
	}
	var text strings.Builder
	n := item.YNode()
	for _, step := range template {
		switch {
		case n.Kind == yaml.SequenceNode:
			text.WriteString(v1alpha1.EveryEntry)
		case step == "" || strings.ContainsAny(step, `.[]"`):
			return ""
		default:
			text.WriteString("." + step)
		}
		n = node.At(n, step)
	}
	return fmt.Sprintf("{group: %s, kind: %s, path: %q}", cmp.Or(groupOf(item), `""`), item.GetKind(), strings.TrimPrefix(text.String(), "."))
}

// WarnHookPods says which hooks of a DeploymentConfig of OpenShift make pods: of one container of the template, and
// without its init containers, so without a proxy (makeHookPod in openshift-controller-manager).
func WarnHookPods(item *yaml.RNode, r *report.Report) {
	if kindOf(item) != "apps.openshift.io/DeploymentConfig" {
		return
	}
	for _, params := range []string{"rollingParams", "recreateParams"} {
		for _, hook := range []string{"pre", "mid", "post"} {
			path := []string{"spec", "strategy", params, hook, "execNewPod"}
			if node.Get(item.YNode(), path...) != nil {
				r.Warn(report.ObjectOf(item), FieldPath(path), "makes a pod of one container of the template, without the proxy: whatever demands mutual TLS refuses it, and what it sends is plaintext. Make it a Job")
			}
		}
	}
}
