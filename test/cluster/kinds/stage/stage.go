// Package stage is what the rooms kinds, failures and kubeproxy have in common: manifests of a test deployed through
// the real function, and what is seen of them afterwards: pods, answers to calls, what a load came to, and the proxies'
// metrics.
package stage

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/kube"
	"github.com/meshless-dev/meshless/test/example"
)

// Package is a package of kustomize with the manifests, in the namespace, and with the lines of config (two spaces
// indented) added to the spec of its MutualTLS. Nothing is issued yet. It is examples/pod with another pod.yaml.
func Package(t *testing.T, namespace, manifests, config string) *example.Example {
	t.Helper()
	e := example.Copy(t, "../../../examples/pod", kube.BinDir)
	e.Edit(t, "pod.yaml", func(string) string { return manifests })
	e.Edit(t, "kustomization.yaml", func(text string) string { return text + "namespace: " + namespace + "\n" })
	if config != "" {
		e.Edit(t, "mtls.yaml", func(text string) string { return text + config })
	}
	return e
}

// Deploy renders the manifests of a file once and applies them once, into a namespace that goes with the test.
func Deploy(t *testing.T, namespace, file, config string) *example.Example {
	t.Helper()
	manifests, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	kube.NewNamespace(t, namespace)
	e := Package(t, namespace, string(manifests), config)
	e.Issue(t, time.Now())
	kube.Must(t, e.IdentitySecret(namespace), "apply", "-f", "-")
	kube.Must(t, e.Render(t), "apply", "--validate=strict", "-f", "-")
	return e
}

// DeployPlain applies the manifests as they are: the control without a mesh.
func DeployPlain(t *testing.T, namespace, file string) {
	t.Helper()
	kube.NewNamespace(t, namespace)
	kube.Must(t, "", "-n", namespace, "apply", "-f", file)
}

// Rollout waits until the workloads (kind/name) are rolled out.
func Rollout(t *testing.T, namespace string, workloads ...string) {
	t.Helper()
	for _, workload := range workloads {
		kube.Must(t, "", "-n", namespace, "rollout", "status", workload, "--timeout=110s")
	}
}

// Ready waits until the pods (pod/name, or pods -l selector) are Ready.
func Ready(t *testing.T, namespace string, pods ...string) {
	t.Helper()
	kube.Must(t, "", append([]string{"-n", namespace, "wait", "--for=condition=Ready", "--timeout=100s"}, pods...)...)
}

// Pods are the pods of a selector, as the API server has them; "" selects all.
func Pods(t *testing.T, namespace, selector string) []corev1.Pod {
	t.Helper()
	args := []string{"-n", namespace, "get", "pods", "-o", "json"}
	if selector != "" {
		args = append(args, "-l", selector)
	}
	var list corev1.PodList
	if err := json.Unmarshal([]byte(kube.Must(t, "", args...)), &list); err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// Pod is one pod.
func Pod(t *testing.T, namespace, name string) corev1.Pod {
	t.Helper()
	var pod corev1.Pod
	if err := json.Unmarshal([]byte(kube.Must(t, "", "-n", namespace, "get", "pod", name, "-o", "json")), &pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

// Container is the status of a container, init container or sidecar of the pod; false where the kubelet has not written
// one.
func Container(pod corev1.Pod, name string) (corev1.ContainerStatus, bool) {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, status := range list {
			if status.Name == name {
				return status, true
			}
		}
	}
	return corev1.ContainerStatus{}, false
}

// Answer is what `standin call` prints for each URL, with the body of / taken apart.
type Answer struct {
	URL   string `json:"url"`
	Error string `json:"error"`
	Body  string `json:"body"`
	Page
}

// Page is what / of the stand-in says: which pod answers, and whom it takes the client for.
type Page struct {
	Host   string `json:"host"`
	Port   int    `json:"port"`
	Remote string `json:"remote"`
}

// ByProxy tells whether the server's proxy brought the request: it dials the app from an address of its own.
func (p Page) ByProxy() bool { return strings.HasPrefix(p.Remote, api.InboundSource4+":") }

// Call lets a container of the stand-in GET the URLs, and returns the answers in their order, also those that are none.
func Call(t *testing.T, namespace, pod, container string, urls ...string) []Answer {
	t.Helper()
	out, err := kube.Kubectl("", append([]string{"-n", namespace, "exec", pod, "-c", container, "--", "/app", "call", "--retries", "0"}, urls...)...)
	var answers []Answer
	for decoder := json.NewDecoder(strings.NewReader(out)); decoder.More(); {
		var a Answer
		if err := decoder.Decode(&a); err != nil {
			t.Fatalf("answer of the stand-in: %v\n%s", err, out)
		}
		_ = json.Unmarshal([]byte(a.Body), &a.Page) // only / answers in this form
		answers = append(answers, a)
	}
	if len(answers) != len(urls) {
		t.Fatalf("%s: %d answers to %d calls: %v\n%s", pod, len(answers), len(urls), err, out)
	}
	return answers
}

// Stats is what a load came to so far.
type Stats struct {
	Requests int            `json:"requests"`
	Failed   int            `json:"failed"`
	Errors   map[string]int `json:"errors"`
	Reopened int            `json:"reopened"`
}

// LoadStats asks the pod load of the namespace.
func LoadStats(t *testing.T, namespace string) Stats { return loadAnswer(t, namespace, "/stats") }

// ResetLoad lets the pod load count from zero: what failed until all servers were up is not what a test is about.
func ResetLoad(t *testing.T, namespace string) { loadAnswer(t, namespace, "/reset") }

func loadAnswer(t *testing.T, namespace, path string) (s Stats) {
	t.Helper()
	a := Call(t, namespace, "load", "load", "http://127.0.0.1:8090"+path)[0]
	if a.Error != "" {
		t.Fatalf("pod load of %s: %s", namespace, a.Error)
	}
	if err := json.Unmarshal([]byte(a.Body), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// WantNoFailure waits for some more requests and wants none to have failed since ResetLoad.
func WantNoFailure(t *testing.T, namespace string) {
	t.Helper()
	if s := finish(t, namespace); s.Failed > 0 {
		t.Errorf("%s: %d of %d requests failed: %v", namespace, s.Failed, s.Requests, s.Errors)
	}
}

// WantNoMoreFailures is WantNoFailure beside a control, the same load without a mesh that met the same: what fails
// there as well is of the machine or the manifest.
func WantNoMoreFailures(t *testing.T, namespace, control string) {
	t.Helper()
	c, s := finish(t, control), finish(t, namespace)
	if s.Failed > c.Failed {
		t.Errorf("%s: %d of %d requests failed: %v; without a mesh %d of %d: %v", namespace, s.Failed, s.Requests, s.Errors, c.Failed, c.Requests, c.Errors)
	}
}

// finish is what a load came to after some more requests.
func finish(t *testing.T, namespace string) (s Stats) {
	t.Helper()
	before := LoadStats(t, namespace).Requests
	kube.Eventually(t, func() error {
		if s = LoadStats(t, namespace); s.Requests < before+20 {
			return fmt.Errorf("the load of %s has sent %d requests since", namespace, s.Requests-before)
		}
		return nil
	})
	t.Logf("%s: %d requests, %d failed %v, %d connections ended and were reopened", namespace, s.Requests, s.Failed, s.Errors, s.Reopened)
	return s
}

// Opened is kube.Opened of a pod's proxy as it is now.
func Opened(t *testing.T, namespace, pod, direction, security string) float64 {
	t.Helper()
	return kube.Opened(t, kube.Metrics(t, namespace, pod), direction, security)
}

// WantNoRestarts wants that no container of the pods restarted, but for those of exempt.
func WantNoRestarts(t *testing.T, pods []corev1.Pod, exempt ...string) {
	t.Helper()
	for _, p := range pods {
	next:
		for _, s := range append(append([]corev1.ContainerStatus{}, p.Status.InitContainerStatuses...), p.Status.ContainerStatuses...) {
			for _, name := range exempt {
				if s.Name == name {
					continue next
				}
			}
			if s.RestartCount > 0 {
				t.Errorf("container %s of %s restarted %d times", s.Name, p.Name, s.RestartCount)
			}
		}
	}
}
