package manifest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// behind are the workloads whose pods a Service leads to, as far as manifests tell.
type behind struct {
	inside, outside []*Workload // of the mesh, and not
	// keys of the selector that pods get from nobody whom the manifests show; the workloads are then those that may be
	// meant
	guessed []string
}

func (b behind) none() bool { return len(b.inside)+len(b.outside) == 0 }

// Finder finds the workloads behind Services.
type Finder struct {
	pods   Index[*Workload]
	labels map[*Workload]map[string]string
	byName map[string]*Workload // by "<namespace>/<kind>/<name>", the kind in lower case
	names  map[string][]string  // "<kind>/<name>" by namespace
}

// NewFinder knows workloads, of which those with a plan are in the mesh.
func NewFinder(workloads ...[]*Workload) *Finder {
	f := &Finder{byName: map[string]*Workload{}, names: map[string][]string{}, labels: map[*Workload]map[string]string{}}
	for _, w := range slices.Concat(workloads...) {
		name := strings.ToLower(w.Kind) + "/" + w.Name
		f.labels[w] = w.CertainLabels()
		f.pods.Add(w.Namespace, f.labels[w], w)
		f.byName[w.Namespace+"/"+name] = w
		f.names[w.Namespace] = append(f.names[w.Namespace], name)
	}
	return f
}

// selected are the workloads that a selector selects by labels that all of their pods have. Without any, they are those
// that satisfy each key of which the manifests tell something, and at least one that names them: what is left are
// labels that pods get at run time.
func (f *Finder) selected(namespace string, selector map[string]string) behind {
	if sure := f.pods.Select(namespace, selector); len(sure) > 0 {
		return split(sure, nil)
	}
	var resolved, possible []*Workload
	var guessed []string
	for _, w := range f.candidates(namespace, selector) {
		switch keys, ok := f.meets(w, selector); {
		case !ok:
		case len(keys) == 0:
			resolved = append(resolved, w)
		default:
			possible, guessed = append(possible, w), append(guessed, keys...)
		}
	}
	if len(resolved) > 0 {
		return split(resolved, nil)
	}
	slices.Sort(guessed)
	return split(possible, slices.Compact(guessed))
}

// candidates are the workloads that have a label of the selector, or whose name it holds.
func (f *Finder) candidates(namespace string, selector map[string]string) []*Workload {
	var found []*Workload
	for key, value := range selector {
		found = append(found, f.pods.WithLabel(namespace, key, value)...)
		if i := strings.LastIndexByte(value, '-'); i > 0 {
			for _, kind := range []string{"statefulset", "cronjob"} {
				if w := f.byName[namespace+"/"+kind+"/"+value[:i]]; w != nil {
					found = append(found, w)
				}
			}
		}
	}
	slices.SortFunc(found, func(a, b *Workload) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
	return slices.Compact(found)
}

// meets tells whether a workload's pods may have every label of a selector, and which of its keys nobody is known to
// set. A label that another template of the namespace carries points at that one.
func (f *Finder) meets(w *Workload, selector map[string]string) (guessed []string, ok bool) {
	have, named := f.labels[w], false
	for key, value := range selector {
		certain, carried := have[key]
		switch {
		case carried && certain != value, ofAnotherKind(w.Kind, key):
			return nil, false
		case carried:
			named = true
		case AtRuntime(w.Kind, key):
			possible, names := w.runtimeValue(key, value)
			if !possible {
				return nil, false
			}
			named = named || names
		case len(f.pods.WithLabel(w.Namespace, key, value)) > 0:
			return nil, false
		default:
			guessed = append(guessed, key)
		}
	}
	return guessed, named
}

// partly tells whether a workload of the mesh has a label of a selector, and does not contradict more of them.
func (f *Finder) partly(namespace string, selector map[string]string) *Workload {
	for _, key := range slices.Sorted(maps.Keys(selector)) {
		have := f.pods.WithLabel(namespace, key, selector[key])
		if i := slices.IndexFunc(have, func(w *Workload) bool { return w.Plan != nil && !f.another(w, selector) }); i >= 0 {
			return have[i]
		}
	}
	return nil
}

// another tells whether a workload has more labels of a selector with another value than with that value: it shares
// what names the whole app, such as app.kubernetes.io/part-of.
func (f *Finder) another(w *Workload, selector map[string]string) bool {
	balance := 0
	for key, value := range selector {
		switch have, ok := f.labels[w][key]; {
		case !ok:
		case have == value:
			balance++
		default:
			balance--
		}
	}
	return balance < 0
}

// named are the workloads that the annotation of a Service names.
func (f *Finder) named(s *Service, text string, r *report.Report) behind {
	var found []*Workload
	for entry := range strings.SplitSeq(text, ",") {
		kind, name, _ := strings.Cut(strings.TrimSpace(entry), "/")
		w := f.byName[s.Namespace+"/"+strings.ToLower(kind)+"/"+name]
		if w == nil {
			r.Error(s.Object, report.Annotation(api.WorkloadsAnnotation), "%q is no workload of namespace %q; want <kind>/<name> of %s, separated by commas",
				strings.TrimSpace(entry), s.Namespace, candidates(f.names[s.Namespace]))
			continue
		}
		if !slices.Contains(found, w) {
			found = append(found, w)
		}
	}
	return split(found, nil)
}

// candidates names the first of some names.
func candidates(names []string) string {
	const most = 8
	names = slices.Sorted(slices.Values(names))
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return cmp.Or(strings.Join(names, ", "), "those in the input, of which it has none")
}

func split(workloads []*Workload, guessed []string) behind {
	b := behind{guessed: guessed}
	for _, w := range workloads {
		if w.Plan != nil {
			b.inside = append(b.inside, w)
		} else {
			b.outside = append(b.outside, w)
		}
	}
	return b
}

// find are the workloads behind a Service: those that its annotation names, or that its selector selects.
func (f *Finder) find(s *Service, service corev1.Service, r *report.Report) behind {
	if text, said := service.Annotations[api.WorkloadsAnnotation]; said {
		return f.named(s, text, r)
	}
	if len(service.Spec.Selector) == 0 {
		return behind{}
	}
	return f.selected(s.Namespace, service.Spec.Selector)
}

// Workloads are those behind a Service, whether they are in the mesh or not. What is wrong with its annotation, package
// verify reports.
func (f *Finder) Workloads(service corev1.Service) []*Workload {
	namespace := EffectiveNamespace(report.Object{APIVersion: "v1", Kind: "Service", Namespace: service.Namespace})
	b := f.find(&Service{Namespace: namespace}, service, &report.Report{})
	return slices.Concat(b.inside, b.outside)
}
