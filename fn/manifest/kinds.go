package manifest

import (
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/node"
)

// Kinds says where each kind of workload, by "<group>/<kind>", keeps its pod templates; a Pod is its own. A path has
// keys, and api/v1alpha1.EveryEntry for the entries of a list.
type Kinds map[string][][]string

var specTemplate = [][]string{{"spec", "template"}}

// builtin are the kinds of Kubernetes, and those of others that keep a whole pod template. Each keeps one.
var builtin = Kinds{
	"/Pod":                               {{}},
	"/ReplicationController":             specTemplate,
	"apps/Deployment":                    specTemplate,
	"apps/StatefulSet":                   specTemplate,
	"apps/DaemonSet":                     specTemplate,
	"apps/ReplicaSet":                    specTemplate,
	"batch/Job":                          specTemplate,
	"batch/CronJob":                      {{"spec", "jobTemplate", "spec", "template"}},
	"argoproj.io/Rollout":                specTemplate,
	"apps.openshift.io/DeploymentConfig": specTemplate,
	"serving.knative.dev/Service":        specTemplate,
}

// KindsOf are the built-in kinds and those that a config adds. What several entries, or an entry and a built-in kind,
// say of one kind adds up.
func KindsOf(spec v1alpha1.Spec) Kinds {
	kinds := maps.Clone(builtin)
	for _, t := range spec.Workloads.Templates {
		key, path := t.Group+"/"+t.Kind, t.Steps()
		if !slices.ContainsFunc(kinds[key], func(known []string) bool { return slices.Equal(known, path) }) {
			kinds[key] = append(slices.Clip(kinds[key]), path)
		}
	}
	return kinds
}

// kindOf is the key of an item's kind: "<group>/<kind>".
func kindOf(item *yaml.RNode) string {
	return groupOf(item) + "/" + item.GetKind()
}

// groupOf is the API group of an item; "" for the core.
func groupOf(item *yaml.RNode) string { return groupIn(item.GetApiVersion()) }

// groupIn is the group in an apiVersion; "" for the core, of which v1 is a version.
func groupIn(apiVersion string) string {
	group, _, named := strings.Cut(apiVersion, "/")
	if !named {
		return ""
	}
	return group
}

// Flatten returns the items with those of every v1 List in its place. They are views: an edit of one is an edit of the
// List. Lists of other kinds, whose items may lack a kind of their own, are left for the model to refuse.
func Flatten(items []*yaml.RNode) []*yaml.RNode {
	var flat []*yaml.RNode
	for _, item := range items {
		if item.YNode().Kind != yaml.MappingNode || item.GetApiVersion() != "v1" || item.GetKind() != "List" {
			flat = append(flat, item)
			continue
		}
		if list := node.Get(item.YNode(), "items"); list != nil && list.Kind == yaml.SequenceNode {
			for _, n := range list.Content {
				flat = append(flat, Flatten([]*yaml.RNode{yaml.NewRNode(n)})...)
			}
		}
	}
	return flat
}
