package manifest

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// Annotations by which Argo CD and Helm order what they apply. Argo CD reads those of Helm where its own say nothing.
const (
	WaveAnnotation     = "argocd.argoproj.io/sync-wave"
	ArgoHookAnnotation = "argocd.argoproj.io/hook"
	HelmHookAnnotation = "helm.sh/hook"

	argoDeleteAnnotation = "argocd.argoproj.io/hook-delete-policy"
	helmDeleteAnnotation = "helm.sh/hook-delete-policy"
	helmWeightAnnotation = "helm.sh/hook-weight"
)

// OrderAnnotations are those of them that a render writes on state, or takes off it.
var OrderAnnotations = []string{WaveAnnotation, ArgoHookAnnotation, argoDeleteAnnotation, HelmHookAnnotation, helmWeightAnnotation, helmDeleteAnnotation}

// Types of hooks, as Argo CD has them (gitops-engine, pkg/sync/common), and what it makes of Helm's.
var (
	argoTypes  = []string{"PreSync", "Sync", "PostSync", "SyncFail", "PreDelete", "PostDelete", "Skip"}
	helmToArgo = map[string]string{"pre-install": "PreSync", "pre-upgrade": "PreSync", "post-install": "PostSync", "post-upgrade": "PostSync",
		"pre-delete": "PreDelete", "post-delete": "PostDelete"}
)

// Hooks before and after the life of what is applied with the package: the state that their pods need is not there yet,
// or not any more. A sync may fail before it has applied anything.
var (
	argoApart = []string{"PreSync", "SyncFail", "PostDelete"}
	helmApart = []string{"pre-install", "pre-upgrade", "pre-rollback", "post-delete"}
)

// HelmEvents are the events of Helm at which an object is applied; none where it belongs to the release.
func HelmEvents(item *yaml.RNode) []string { return listed(item, HelmHookAnnotation) }

// ArgoHooks are the phases of Argo CD in which it applies an object as a hook, and whether it is a hook. One with types
// that Argo CD does not know is never applied.
func ArgoHooks(item *yaml.RNode) (types []string, hook bool) {
	argo, helm := annotated(item, ArgoHookAnnotation), annotationOf(item, HelmHookAnnotation)
	for _, t := range listed(item, ArgoHookAnnotation) {
		if slices.Contains(argoTypes, t) {
			types = append(types, t)
		}
	}
	if len(types) > 0 {
		return types, true
	}
	for _, event := range HelmEvents(item) {
		if t := helmToArgo[event]; t != "" && !slices.Contains(types, t) {
			types = append(types, t)
		}
	}
	return types, argo || annotated(item, HelmHookAnnotation) && helm != "crd-install"
}

// ApartHook is the hook as which an object is applied without the state of the package; "" where there is none. Its
// pods need state of their own.
func ApartHook(item *yaml.RNode) string {
	for _, list := range []struct {
		annotation string
		apart      []string
	}{{ArgoHookAnnotation, argoApart}, {HelmHookAnnotation, helmApart}} {
		for _, t := range listed(item, list.annotation) {
			if slices.Contains(list.apart, t) {
				return t
			}
		}
	}
	return ""
}

// listed are the values of an annotation that holds a list.
func listed(item *yaml.RNode, annotation string) (values []string) {
	text := annotationOf(item, annotation)
	if text == "" { // as of most objects
		return nil
	}
	for value := range strings.SplitSeq(text, ",") {
		if value = strings.TrimSpace(value); value != "" && !slices.Contains(values, value) {
			values = append(values, value)
		}
	}
	return values
}

// Wave is the wave in which Argo CD applies an object: it takes the weight of Helm, and at last 0, where it cannot read
// one.
func Wave(item *yaml.RNode) int {
	return waveOf(annotationOf(item, WaveAnnotation), annotationOf(item, helmWeightAnnotation))
}

func waveOf(wave, weight string) int { return numberOf(wave, numberOf(weight, 0)) }

// numberOf reads a wave or a weight.
func numberOf(text string, otherwise int) int {
	if text == "" { // as of most objects
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return otherwise
	}
	return n
}

// annotationOf is one annotation of an item, without a map of all.
func annotationOf(item *yaml.RNode, key string) string {
	return node.Scalar(item.YNode(), "metadata", "annotations", key)
}

func annotated(item *yaml.RNode, key string) bool {
	return node.Get(item.YNode(), "metadata", "annotations", key) != nil
}

// InSync tells whether Argo CD applies an object in the phase in which it applies what is no hook.
func InSync(item *yaml.RNode) bool {
	types, hook := ArgoHooks(item)
	return !hook || slices.Contains(types, "Sync")
}

// HookAnnotations are those of the state of a workload that is a hook apart: it is the same hook, and comes before.
// Both Argo CD and Helm delete it before they make it again, and not before its pods are done.
func (w *Workload) HookAnnotations() map[string]string {
	out := map[string]string{}
	argo, helm := annotationOf(w.Node, ArgoHookAnnotation), annotationOf(w.Node, HelmHookAnnotation)
	if argo != "" {
		out[ArgoHookAnnotation], out[argoDeleteAnnotation] = argo, "BeforeHookCreation"
	}
	if annotated(w.Node, WaveAnnotation) || argo != "" {
		out[WaveAnnotation] = strconv.Itoa(Wave(w.Node) - 1)
	}
	if helm != "" {
		out[HelmHookAnnotation], out[helmDeleteAnnotation], out[helmWeightAnnotation] = helm, "before-hook-creation", strconv.Itoa(numberOf(annotationOf(w.Node, helmWeightAnnotation), 0)-1)
	}
	return out
}

// Apart tells whether the workload is a hook that needs state of its own.
func (w *Workload) Apart() bool { return w.Declaration == nil && ApartHook(w.Node) != "" }

// HookBundleName and HookMeshName are the names of the copies of bundle and mesh map that the pods of a hook mount.
func (w *Workload) HookBundleName() string { return w.objectName(api.HookBundlePrefix) }

// HookMeshName is that of the mesh map.
func (w *Workload) HookMeshName() string { return w.objectName(api.HookMeshPrefix) }

// IsHookCopy tells whether an item is the copy of a bundle or a mesh map for one hook. The others are of no workload.
func IsHookCopy(item *yaml.RNode) bool {
	_, id, _ := strings.Cut(annotationOf(item, api.IdentityAnnotation), "://")
	return strings.Contains(id, "/") && node.Scalar(item.YNode(), "kind") == "ConfigMap" && node.Scalar(item.YNode(), "apiVersion") == "v1"
}

// StateNamespace is the namespace whose pods need an item of the state. Policies are of none.
func StateNamespace(item *yaml.RNode) string {
	if !IsPolicy(item) {
		return NamespaceOf(item)
	}
	id, err := spiffeid.FromString(item.GetAnnotations()[api.IdentityAnnotation])
	if segments := strings.Split(id.Path(), "/"); err == nil && len(segments) > 2 { // "", "ns", namespace
		return segments[2]
	}
	return ""
}

// StateWaves are the waves of the state by namespace, below the lowest of its workloads; none where 0 will do. State
// that is below them without an annotation needs none. It is never before its Namespace: within a wave, Argo CD applies
// Namespaces first, then Secrets, ConfigMaps and Services, then workloads. What the config declares may come of any
// object of a kind that somebody has added to Kubernetes.
func (m *Model) StateWaves() map[string]int {
	lowest, used := map[string]int{}, map[string]bool{}
	add := func(namespace string, wave int) {
		if have, found := lowest[namespace]; !found || wave < have {
			lowest[namespace] = wave
		}
		used[namespace] = used[namespace] || wave != 0
	}
	for _, w := range m.Workloads {
		switch {
		case w.Declaration != nil:
			add(w.Namespace, min(m.customWaves[w.Namespace], 0))
		case InSync(w.Node):
			add(w.Namespace, Wave(w.Node))
		}
	}
	waves := map[string]int{}
	for namespace := range used {
		wave := min(lowest[namespace]-1, 0)
		if object, found := m.NamespaceObjects[namespace]; found {
			if own := waveOf(object.Annotations[WaveAnnotation], object.Annotations[helmWeightAnnotation]); own <= lowest[namespace] {
				wave = max(wave, own)
			}
		}
		if used[namespace] && wave < 0 {
			waves[namespace] = wave
		}
	}
	return waves
}

// readWave keeps the lowest wave of the objects of kinds that are none of Kubernetes' own.
func (m *Model) readWave(item *yaml.RNode) {
	if group := groupOf(item); !strings.Contains(group, ".") || strings.HasSuffix(group, ".k8s.io") || !InSync(item) {
		return
	}
	namespace, wave := NamespaceOf(item), Wave(item)
	if lowest, found := m.customWaves[namespace]; !found || wave < lowest {
		m.customWaves[namespace] = wave
	}
}

// maxWave bounds the waves of workloads, so that there is one below the lowest.
const maxWave = math.MaxInt32

// checkOrder refuses waves and weights below which no other is, and says which Argo CD cannot read.
func (m *Model) checkOrder(r *report.Report) {
	for _, w := range m.Workloads {
		if w.Declaration != nil {
			continue
		}
		for _, key := range []string{WaveAnnotation, helmWeightAnnotation} {
			if !annotated(w.Node, key) {
				continue
			}
			text := annotationOf(w.Node, key)
			switch n, err := strconv.Atoi(text); {
			case err != nil:
				r.Warn(w.Object, report.Annotation(key), "is %q, which is no whole number, and counts as if it were not there", text)
			case n < -maxWave || n > maxWave:
				r.Error(w.Object, report.Annotation(key), "is %d; what its pods need must come before, so take one between %d and %d", n, -maxWave, maxWave)
			}
		}
	}
}
