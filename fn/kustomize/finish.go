package kustomize

import (
	"encoding/json"
	"fmt"
	"log"
	"slices"
	"sort"
	"strings"

	//lint:ignore SA1019 deprecated for a v1 that does not exist
	"sigs.k8s.io/kustomize/api/builtins"
	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/provenance"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/resid"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// finish is what kustomize does with the objects behind the transformers: so it comes behind the function, too.
type finish struct {
	order           *types.LegacySortOptions // nil keeps the order
	managedBy       bool
	origins         bool // what is new says who made it
	keepOrigins     bool
	keepTransformed bool
}

// takeFinish takes out of a kustomization what belongs behind the function.
func takeFinish(k content, o *krusty.Options) (finish, error) {
	f := finish{managedBy: o.AddManagedbyLabel}
	metadata := k.list("buildMetadata")
	f.origins = len(metadata) > 0
	f.keepOrigins = slices.Contains(metadata, types.OriginAnnotations)
	f.keepTransformed = slices.Contains(metadata, types.TransformerAnnotations)
	f.managedBy = f.managedBy || slices.Contains(metadata, types.ManagedByLabelOption)
	metadata = slices.DeleteFunc(metadata, func(s string) bool { return s == types.ManagedByLabelOption })
	if f.origins && !f.keepOrigins {
		metadata = append(metadata, types.OriginAnnotations) // they tell what is new
	}
	k.setList("buildMetadata", metadata)
	sortOptions, err := takeOrder(k)
	switch {
	case err != nil:
		return f, err
	case sortOptions == nil && o.Reorder != krusty.ReorderOptionNone:
		f.order = defaultOrder
	case sortOptions != nil:
		if o.Reorder != krusty.ReorderOptionUnspecified {
			log.Println("Warning: Sorting order is set both in 'kustomization.yaml' ('sortOptions') and in a CLI flag ('--reorder'). Using the kustomization file over the CLI flag.")
		}
		if sortOptions.Order == types.LegacySortOrder {
			if f.order = sortOptions.LegacySortOptions; f.order == nil {
				f.order = defaultOrder
			}
		}
	}
	return f, nil
}

// takeOrder takes out sortOptions; nil without.
func takeOrder(k content) (*types.SortOptions, error) {
	text, ok := k["sortOptions"]
	if !ok || string(text) == "null" {
		return nil, nil
	}
	options := &types.SortOptions{}
	if err := json.Unmarshal(text, options); err != nil {
		return nil, fmt.Errorf("sortOptions: %w", err)
	}
	switch options.Order {
	case types.FIFOSortOrder:
		if options.LegacySortOptions != nil {
			return nil, fmt.Errorf("sortOptions: legacySortOptions belong to the order %s, and this is %s", types.LegacySortOrder, options.Order)
		}
	case types.LegacySortOrder:
	default:
		return nil, fmt.Errorf("sortOptions: the order %q is none of %s and %s", options.Order, types.LegacySortOrder, types.FIFOSortOrder)
	}
	delete(k, "sortOptions")
	return options, nil
}

func (f finish) run(b *Build) error {
	if f.origins {
		if err := f.annotate(b); err != nil {
			return err
		}
	}
	if f.order != nil {
		if err := sortObjects(b.objects, f.order); err != nil {
			return err
		}
	}
	if f.managedBy {
		label := builtins.LabelTransformerPlugin{
			Labels:     map[string]string{konfig.ManagedbyLabelKey: "kustomize-" + provenance.GetProvenance().Semver()},
			FieldSpecs: []types.FieldSpec{{Path: "metadata/labels", CreateIfNotPresent: true}},
		}
		return label.Transform(b.objects)
	}
	return nil
}

// annotate says of each object that the function made or changed it, where the kustomization asks for that.
func (f finish) annotate(b *Build) error {
	origin := &resource.Origin{
		ConfiguredIn: b.configFile,
		ConfiguredBy: yaml.ResourceIdentifier{
			TypeMeta: yaml.TypeMeta{APIVersion: b.Config.GetApiVersion(), Kind: b.Config.GetKind()},
			NameMeta: yaml.NameMeta{Name: b.Config.GetName(), Namespace: b.Config.GetNamespace()},
		},
	}
	err := b.objects.AddTransformerAnnotation(origin)
	if err == nil && !f.keepOrigins {
		err = b.objects.RemoveOriginAnnotations()
	}
	if err == nil && !f.keepTransformed {
		err = b.objects.RemoveTransformerAnnotations()
	}
	return err
}

// sortObjects sorts as kustomize does (SortOrderTransformer), which appends the objects to a new list one by one and
// looks each time whether it is there already.
func sortObjects(objects resmap.ResMap, options *types.LegacySortOptions) error {
	rank := map[string]int{}
	for i, kind := range options.OrderFirst {
		rank[kind] = i - len(options.OrderFirst)
	}
	for i, kind := range options.OrderLast {
		rank[kind] = 1 + i
	}
	type entry struct {
		id     resid.ResId
		object *resource.Resource
	}
	var entries []entry
	for _, object := range objects.Resources() {
		entries = append(entries, entry{object.CurId(), object})
	}
	sort.SliceStable(entries, func(i, j int) bool { return lessID(entries[i].id, entries[j].id, rank) })
	nodes := make(nodesFilter, len(entries))
	for i, e := range entries {
		nodes[i] = &e.object.RNode
	}
	return objects.ApplyFilter(nodes)
}

func lessID(a, b resid.ResId, rank map[string]int) bool {
	if a.Gvk.Equals(b.Gvk) {
		return sortText("|", a.Gvk.String(), "", a.Namespace, "~X", a.Name, "~N") < sortText("|", b.Gvk.String(), "", b.Namespace, "~X", b.Name, "~N")
	}
	if x, y := rank[a.Kind], rank[b.Kind]; x != y {
		return x < y
	}
	x, y := gvkText(a.Gvk), gvkText(b.Gvk)
	if a.Kind == types.NamespaceKind && b.Kind == types.NamespaceKind && (a.Group == "" || b.Group == "") {
		return x > y
	}
	return x < y
}

func gvkText(g resid.Gvk) string {
	return sortText("_", g.Group, "~G", g.Version, "~V", g.Kind, "~K")
}

// sortText joins texts, each followed by what stands for it where it is empty.
func sortText(separator string, pairs ...string) string {
	var parts []string
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i] == "" {
			pairs[i] = pairs[i+1]
		}
		parts = append(parts, pairs[i])
	}
	return strings.Join(parts, separator)
}

// defaultOrder is kustomize's own, which its source promises not to change (SortOrderTransformer, "DO NOT CHANGE!").
var defaultOrder = &types.LegacySortOptions{
	OrderFirst: []string{
		"Namespace", "ResourceQuota", "StorageClass", "CustomResourceDefinition", "ServiceAccount", "PodSecurityPolicy", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding",
		"ConfigMap", "Secret", "Endpoints", "Service", "LimitRange", "PriorityClass", "PersistentVolume", "PersistentVolumeClaim", "Deployment", "StatefulSet", "CronJob", "PodDisruptionBudget",
	},
	OrderLast: []string{"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"},
}
