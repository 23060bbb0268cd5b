package lint

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/podspec"
	"github.com/meshless-dev/meshless/fn/report"
)

// constraint is one field of a LimitRange that pods are held against.
type constraint struct {
	field string // below the LimitRange, like spec.limits[0].min[cpu]
	what  string // like "at least 50m of cpu"
	// violated is what requests and limits of a container or a pod are that it refuses; "" when they pass
	violated func(corev1.ResourceRequirements) string
}

// refusal is what a constraint refuses: a container of ours, or the pod that has them.
type refusal struct{ field, text string }

// warnLimitRanges warns of LimitRanges that refuse pods because of our containers: once for each constraint and what it
// refuses, with the first workload. It knows their defaults, and that the API server refuses a pod whose requests are
// above its limits.
func warnLimitRanges(m *manifest.Model, r *report.Report) {
	for i := range m.LimitRanges {
		l := &m.LimitRanges[i]
		object := report.Object{APIVersion: "v1", Kind: "LimitRange", Namespace: l.Namespace, Name: l.Name}
		namespace := manifest.EffectiveNamespace(object)
		first, count := map[refusal]*manifest.Workload{}, map[refusal]int{}
		var order []refusal
		for _, w := range m.Workloads {
			if w.Namespace != namespace {
				continue
			}
			for _, found := range refusals(l, admission(w, m.LimitRangesOf(namespace))) {
				if count[found]++; count[found] == 1 {
					first[found] = w
					order = append(order, found)
				}
			}
		}
		for _, found := range order {
			who := first[found].Object.String()
			if more := count[found] - 1; more > 0 {
				who += fmt.Sprintf(" and %d more", more)
			}
			r.Warn(object, found.field, "%s: the API server refuses the pods (%s). Change it, or what ours ask for (%s)", found.text, who, ways)
		}
	}
}

// refusals are what a LimitRange refuses of a pod with our containers, and not without.
func refusals(l *corev1.LimitRange, a admitted) (found []refusal) {
	for i, item := range l.Spec.Limits {
		for _, c := range constraints(i, item) {
			switch item.Type {
			case corev1.LimitTypeContainer:
				for _, x := range containers(a.after) {
					if why := c.violated(x.Resources); why != "" && isOurs(x) {
						found = append(found, refusal{c.field, fmt.Sprintf("wants %s in every container, and %s %s", c.what, x.Name, why)})
					}
				}
			case corev1.LimitTypePod:
				if why := c.violated(whole(a.after)); why != "" && c.violated(whole(a.before)) == "" {
					found = append(found, refusal{c.field, fmt.Sprintf("wants %s in every pod, and with ours one %s", c.what, why)})
				}
			}
		}
		if item.Type == corev1.LimitTypeContainer {
			found = append(found, contradicted(i, item, a)...)
		}
	}
	return found
}

func whole(pod *corev1.PodSpec) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Requests: podspec.Requests(pod), Limits: podspec.Limits(pod)}
}

// contradicted are defaults of limits that are below what our containers request.
func contradicted(i int, item corev1.LimitRangeItem, a admitted) (found []refusal) {
	for _, c := range containers(a.after) {
		if !isOurs(c) {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(c.Resources.Limits)) {
			request, limit := c.Resources.Requests[name], c.Resources.Limits[name]
			said, field := item.Default[name], fmt.Sprintf("spec.limits[%d].default[%s]", i, name)
			if said.IsZero() {
				said, field = item.Max[name], fmt.Sprintf("spec.limits[%d].max[%s]", i, name)
			}
			if request.Cmp(limit) > 0 && said.Cmp(limit) == 0 {
				found = append(found, refusal{field, fmt.Sprintf("gives containers without a limit of %s one of %s, and %s requests %s", name, &limit, c.Name, &request)})
			}
		}
	}
	return found
}

// constraints are those of one entry of a LimitRange, as the API server checks them (k8s.io/kubernetes, plugin
// limitranger).
func constraints(i int, item corev1.LimitRangeItem) (list []constraint) {
	each := func(part string, of corev1.ResourceList, what string, violated func(resource.Quantity, quantities) string) {
		for _, name := range slices.Sorted(maps.Keys(of)) {
			bound := of[name]
			list = append(list, constraint{fmt.Sprintf("spec.limits[%d].%s[%s]", i, part, name), fmt.Sprintf(what, &bound, name),
				func(r corev1.ResourceRequirements) string { return violated(bound, read(r, name)) }})
		}
	}
	each("min", item.Min, "at least %s of %s", belowMin)
	each("max", item.Max, "at most %s of %s", aboveMax)
	each("maxLimitRequestRatio", item.MaxLimitRequestRatio, "limits of at most %s times the requests of %s", aboveRatio)
	return list
}

// quantities are a request and a limit of one resource; nil where there is none.
type quantities struct{ request, limit *resource.Quantity }

func read(r corev1.ResourceRequirements, name corev1.ResourceName) (q quantities) {
	if request, has := r.Requests[name]; has {
		q.request = &request
	}
	if limit, has := r.Limits[name]; has {
		q.limit = &limit
	}
	return q
}

func belowMin(bound resource.Quantity, q quantities) string {
	switch {
	case q.request == nil:
		return "requests none"
	case q.request.Cmp(bound) < 0:
		return fmt.Sprintf("requests %s", q.request)
	case q.limit != nil && q.limit.Cmp(bound) < 0:
		return fmt.Sprintf("has a limit of %s", q.limit)
	}
	return ""
}

func aboveMax(bound resource.Quantity, q quantities) string {
	switch {
	case q.limit == nil:
		return "has no limit"
	case q.limit.Cmp(bound) > 0:
		return fmt.Sprintf("has a limit of %s", q.limit)
	case q.request != nil && q.request.Cmp(bound) > 0:
		return fmt.Sprintf("requests %s", q.request)
	}
	return ""
}

func aboveRatio(bound resource.Quantity, q quantities) string {
	switch {
	case q.request == nil || q.request.IsZero():
		return "requests none"
	case q.limit == nil || q.limit.IsZero():
		return "has no limit"
	case q.limit.AsApproximateFloat64()/q.request.AsApproximateFloat64() > bound.AsApproximateFloat64():
		return fmt.Sprintf("requests %s with a limit of %s", q.request, q.limit)
	}
	return ""
}
