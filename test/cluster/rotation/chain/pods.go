//go:build e2e && linux

package chain

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/kube"
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
	pod := Pod{Name: p.Name, App: p.Labels["app"], UID: p.UID, Meshed: p.Annotations[api.WorkloadAnnotation] != ""}
	pod.IP, _ = netip.ParseAddr(p.Status.PodIP) // none yet, while it starts
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		pod.Restarts += s.RestartCount
	}
	pod.Ready = slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
	return pod
}
