//go:build e2e && linux

package chain

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/meshless-dev/meshless/e2e/cluster/kube"
	"github.com/meshless-dev/meshless/internal/contract"
)

// Pod is a pod of the application as the API server has it.
type Pod struct {
	Name, App string
	UID       types.UID
	IP        netip.Addr
	Restarts  int32 // of all containers
	Ready     bool
	Meshed    bool
}

// Pods are the pods of a namespace that match the selector and do not end, by name.
func Pods(namespace, selector string) ([]Pod, error) {
	out, err := kube.Kubectl("", "-n", namespace, "get", "pods", "-l", selector, "-o", "json")
	if err != nil {
		return nil, err
	}
	var list corev1.PodList
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, err
	}
	var pods []Pod
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			pods = append(pods, podOf(p))
		}
	}
	slices.SortFunc(pods, func(a, b Pod) int { return strings.Compare(a.Name, b.Name) })
	return pods, nil
}

func podOf(p corev1.Pod) Pod {
	pod := Pod{Name: p.Name, App: p.Labels["app"], UID: p.UID, Meshed: p.Annotations[contract.WorkloadAnnotation] != ""}
	pod.IP, _ = netip.ParseAddr(p.Status.PodIP) // none yet, while it starts
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		pod.Restarts += s.RestartCount
	}
	pod.Ready = slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
	return pod
}

// Metrics asks a pod's proxy through the API server.
func Metrics(namespace, pod string) (string, error) {
	return kube.Kubectl("", "get", "--raw", fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:%d/proxy/metrics", namespace, pod, contract.MetricsPort))
}

// Metric sums the series of a name that have all the labels, each like `reason="done"`. A name that is not there at all fails the test, so that no renamed
// metric hides.
func Metric(t *testing.T, metrics, name string, labels ...string) float64 {
	t.Helper()
	sum, found := 0.0, false
	for line := range strings.Lines(metrics) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		found = true
		series, value, _ := strings.Cut(rest, " ")
		if slices.ContainsFunc(labels, func(label string) bool { return !strings.Contains(series, label) }) {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatalf("metric %q: %v", line, err)
		}
		sum += n
	}
	if !found {
		t.Fatalf("no metric %s:\n%s", name, metrics)
	}
	return sum
}
