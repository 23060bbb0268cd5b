package manifest

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// osLabels say which system a node has: the kubelet sets both, of which the second is deprecated.
var osLabels = []string{corev1.LabelOSStable, "beta.kubernetes.io/os"}

// WindowsField is the field, below the pod template, by which a pod runs on nodes with Windows only: it names its
// system, or the scheduler may take no other node. It is "" for any other pod.
func WindowsField(pod *corev1.PodSpec) string {
	if pod.OS != nil && pod.OS.Name != "" {
		if pod.OS.Name == corev1.Windows {
			return "spec.os.name"
		}
		return "" // a kubelet of another system refuses it, wherever it is scheduled
	}
	for _, label := range osLabels {
		if pod.NodeSelector[label] == string(corev1.Windows) {
			return "spec.nodeSelector[" + label + "]"
		}
	}
	if wantsWindows(pod.Affinity) {
		return "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
	}
	return ""
}

// wantsWindows tells whether every term of a required node affinity, of which one must hold, asks for Windows.
func wantsWindows(a *corev1.Affinity) bool {
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return false
	}
	terms := a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	return len(terms) > 0 && !slices.ContainsFunc(terms, func(t corev1.NodeSelectorTerm) bool {
		return !slices.ContainsFunc(t.MatchExpressions, isWindows)
	})
}

func isWindows(e corev1.NodeSelectorRequirement) bool {
	return slices.Contains(osLabels, e.Key) && e.Operator == corev1.NodeSelectorOpIn && len(e.Values) == 1 && e.Values[0] == string(corev1.Windows)
}
