package stage

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/test/app/client"
)

// Pods are the pods of a selector, as the API server has them; "" selects all.
func Pods(t *testing.T, namespace, selector string) []corev1.Pod {
	t.Helper()
	pods, err := listPods(namespace, selector)
	if err != nil {
		t.Fatal(err)
	}
	return pods
}

func listPods(namespace, selector string) ([]corev1.Pod, error) {
	out, err := Kubectl("", "-n", namespace, "get", "pods", "-o", "json", "-l", selector)
	if err != nil {
		return nil, err
	}
	var list corev1.PodList
	err = json.Unmarshal([]byte(out), &list)
	return list.Items, err
}

// Pod is one pod.
func Pod(t *testing.T, namespace, name string) corev1.Pod {
	t.Helper()
	var pod corev1.Pod
	if err := json.Unmarshal([]byte(Must(t, "", "-n", namespace, "get", "pod", name, "-o", "json")), &pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

// statuses are those of init containers, sidecars among them, and containers.
func statuses(pod corev1.Pod) []corev1.ContainerStatus {
	return slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses)
}

// Container is the status of a container, init container or sidecar of the pod; false where the kubelet has not written
// one.
func Container(pod corev1.Pod, name string) (corev1.ContainerStatus, bool) {
	for _, status := range statuses(pod) {
		if status.Name == name {
			return status, true
		}
	}
	return corev1.ContainerStatus{}, false
}

// IsReady tells whether the pod is Ready.
func IsReady(pod corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
}

// Answer is what `app call` prints for each URL, with the body of / taken apart.
type Answer struct {
	client.Answer
	client.Page
}

// ByProxy tells whether the server's proxy brought the request: it dials the app from a range that is the pod's own.
func (a Answer) ByProxy() bool {
	from, err := netip.ParseAddrPort(a.Remote)
	return err == nil && clientaddr.Default.V4.Contains(from.Addr())
}

// Call lets a container of the test application GET the URLs once, and returns the answers in their order, also those
// that are none. target is a pod, or a Deployment as deployment/NAME.
func Call(t *testing.T, namespace, target, container string, urls ...string) []Answer {
	t.Helper()
	// Where a call fails, so does the command.
	out, err := Kubectl("", append([]string{"-n", namespace, "exec", target, "-c", container, "--", "/app", "call", "--retries", "0"}, urls...)...)
	var answers []Answer
	for decoder := json.NewDecoder(strings.NewReader(out)); decoder.More(); {
		var a Answer
		if err := decoder.Decode(&a.Answer); err != nil {
			t.Fatalf("answer of %s: %v\n%s", target, err, out)
		}
		_ = json.Unmarshal([]byte(a.Body), &a.Page) // only / answers in this form
		answers = append(answers, a)
	}
	if len(answers) != len(urls) {
		t.Fatalf("%s: %d answers to %d calls: %v\n%s", target, len(answers), len(urls), err, out)
	}
	return answers
}

// OpenedBy is Opened of a pod's proxy as it is now.
func OpenedBy(t *testing.T, namespace, pod, direction, security string) float64 {
	t.Helper()
	return Opened(t, Metrics(t, namespace, pod), direction, security)
}

// WantNoRestarts wants that no container of the pods restarted, but for those of exempt.
func WantNoRestarts(t *testing.T, pods []corev1.Pod, exempt ...string) {
	t.Helper()
	for _, p := range pods {
		for _, s := range statuses(p) {
			if s.RestartCount > 0 && !slices.Contains(exempt, s.Name) {
				t.Errorf("container %s of %s restarted %d times", s.Name, p.Name, s.RestartCount)
			}
		}
	}
}

// State is the content of a file of the namespace's bundle or mesh map (api.BundleFile, api.MeshFile), whatever the
// name of the package.
func State(t *testing.T, namespace, file string) string {
	t.Helper()
	var list corev1.ConfigMapList
	if err := json.Unmarshal([]byte(Must(t, "", "-n", namespace, "get", "configmaps", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	for _, c := range list.Items {
		if text, ok := c.Data[file]; ok && c.Annotations[api.IdentityAnnotation] != "" {
			return text
		}
	}
	t.Fatalf("no ConfigMap of ours in %s has %s", namespace, file)
	return ""
}
