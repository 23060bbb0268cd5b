package manifest

import (
	"slices"
	"strings"

	"github.com/meshless-dev/meshless/internal/api"
)

// runtimeLabels are those that pods get from controllers and from the API server, by the kind of the workload, "" for
// every kind; one that ends with a slash stands for all that begin with it (Kubernetes documentation, "Well-Known
// Labels, Annotations and Taints").
var runtimeLabels = map[string][]string{
	"":            {"topology.kubernetes.io/"},
	"Deployment":  {"pod-template-hash"},
	"ReplicaSet":  {"pod-template-hash"},
	"StatefulSet": {podNameLabel, podIndexLabel, "controller-revision-hash"},
	"DaemonSet":   {"controller-revision-hash", "pod-template-generation"},
	"Job":         {"controller-uid", "batch.kubernetes.io/"},
	"CronJob":     {"controller-uid", "batch.kubernetes.io/", jobLabel},
	"Rollout":     {"rollouts-pod-template-hash"},
	"Service":     {"serving.knative.dev/", "pod-template-hash"},
}

// Labels whose values follow from the name of a workload.
const (
	podNameLabel  = "statefulset.kubernetes.io/pod-name"
	podIndexLabel = "apps.kubernetes.io/pod-index"
	jobLabel      = "job-name"
	batchJobLabel = "batch.kubernetes.io/job-name"
	indexLabel    = "batch.kubernetes.io/job-completion-index"
)

// AtRuntime tells whether the pods of a kind of workload get a label when they are made, whatever the template says of
// it.
func AtRuntime(kind, key string) bool {
	meant := func(l string) bool { return l == key || strings.HasSuffix(l, "/") && strings.HasPrefix(key, l) }
	return slices.ContainsFunc(runtimeLabels[""], meant) || slices.ContainsFunc(runtimeLabels[kind], meant)
}

// ofAnotherKind tells whether a label is one that controllers set, and that of this kind does not.
func ofAnotherKind(kind, key string) bool {
	if _, known := runtimeLabels[kind]; (!known && kind != "Pod" && kind != "ReplicationController") || AtRuntime(kind, key) {
		return false
	}
	for other := range runtimeLabels {
		if AtRuntime(other, key) {
			return true
		}
	}
	return false
}

// CertainLabels are the labels that every pod of a workload has: those of its template but for what a controller
// overwrites, those that a render writes, which are not there while it is stripped, and the name of a Job, which is a
// label of its pods under two keys.
func (w *Workload) CertainLabels() map[string]string {
	have := map[string]string{}
	for key, value := range w.Pod.Labels {
		if !AtRuntime(w.Kind, key) {
			have[key] = value
		}
	}
	if w.Plan != nil && w.Plan.Package != "" {
		have[api.PackageLabel] = w.Plan.Package
	}
	if w.Plan != nil && w.Plan.NoRedirect() {
		have[api.DirectLabel] = w.Plan.DirectName()
	}
	if w.Kind == "Job" {
		have[jobLabel], have[batchJobLabel] = w.Name, w.Name
	}
	return have
}

// runtimeValue tells whether a label that a controller sets may have a value, and whether that value names the
// workload.
func (w *Workload) runtimeValue(key, value string) (possible, names bool) {
	switch key {
	case podNameLabel: // <name>-<ordinal>
		ordinal, ours := strings.CutPrefix(value, w.Name+"-")
		return ours && isNumber(ordinal), true
	case jobLabel, batchJobLabel: // of a CronJob: <name>-<minutes since 1970>
		minutes, ours := strings.CutPrefix(value, w.Name+"-")
		return ours && isNumber(minutes), true
	case podIndexLabel, indexLabel:
		return isNumber(value), false
	}
	return true, false
}

func isNumber(text string) bool {
	return text != "" && strings.Trim(text, "0123456789") == "" && (text == "0" || text[0] != '0')
}
