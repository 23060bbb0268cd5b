package manifest

import (
	"maps"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/internal/api"
)

// Kinds says where each kind of workload, by "<group>/<kind>", keeps its pod template; a Pod is its own.
type Kinds map[string][]string

// builtin are the kinds of Kubernetes, and those of others that keep a whole pod template.
var builtin = Kinds{
	"/Pod":                               {},
	"/ReplicationController":             {"spec", "template"},
	"apps/Deployment":                    {"spec", "template"},
	"apps/StatefulSet":                   {"spec", "template"},
	"apps/DaemonSet":                     {"spec", "template"},
	"apps/ReplicaSet":                    {"spec", "template"},
	"batch/Job":                          {"spec", "template"},
	"batch/CronJob":                      {"spec", "jobTemplate", "spec", "template"},
	"argoproj.io/Rollout":                {"spec", "template"},
	"apps.openshift.io/DeploymentConfig": {"spec", "template"},
	"serving.knative.dev/Service":        {"spec", "template"},
}

// KindsOf are the built-in kinds and those that a config adds.
func KindsOf(spec v1alpha1.Spec) Kinds {
	kinds := maps.Clone(builtin)
	for _, t := range spec.Workloads.Templates {
		kinds[t.Group+"/"+t.Kind] = strings.Split(t.Path, ".")
	}
	return kinds
}

// TemplatePath returns where an item keeps its pod template, and whether it is a workload of a known kind at all.
func (k Kinds) TemplatePath(item *yaml.RNode) ([]string, bool) {
	group, _, hasGroup := strings.Cut(item.GetApiVersion(), "/")
	if !hasGroup {
		group = ""
	}
	path, ok := k[group+"/"+item.GetKind()]
	return path, ok
}

// Find is TemplatePath for rendered items, whose config may be elsewhere: a mapping that carries the mark of an
// injection is a pod template, wherever it stands. A Service holds none: there the mark is a mistyped
// api.WorkloadsAnnotation.
func (k Kinds) Find(item *yaml.RNode) ([]string, bool) {
	if path, ok := k.TemplatePath(item); ok {
		return path, true
	}
	if item.GetApiVersion() == "v1" && item.GetKind() == "Service" {
		return nil, false
	}
	return injectedAt(item.YNode(), nil)
}

// injectedAt is the path of the first mapping at or below n, reached through mappings alone, that carries the mark of
// an injection.
func injectedAt(n *yaml.Node, path []string) ([]string, bool) {
	if n.Kind != yaml.MappingNode {
		return nil, false
	}
	if node.Get(n, "metadata", "annotations", api.WorkloadAnnotation) != nil {
		return path, true
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if found, ok := injectedAt(n.Content[i+1], append(path[:len(path):len(path)], n.Content[i].Value)); ok {
			return found, true
		}
	}
	return nil, false
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
