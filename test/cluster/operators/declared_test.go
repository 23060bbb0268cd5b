//go:build e2e && linux

package operators

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/program"
)

// mesh is a package with declared workloads, as it was applied last.
type mesh struct {
	namespace string
	folder    *example.Example
	rendered  *stage.Rendered
}

// deploy applies a package of the manifests with the declarations in config, and waits until its policies count for
// pods with each of the labels.
func deploy(t *testing.T, namespace, manifests, config string, labels ...string) *mesh {
	t.Helper()
	m := &mesh{namespace: namespace, folder: stage.Package(t, namespace, manifests, config)}
	m.folder.Issue(t, time.Now())
	stage.Must(t, m.folder.IdentitySecret(namespace), "apply", "-f", "-")
	t.Cleanup(func() { // policies belong to no namespace
		if os.Getenv("KEEP") != "" || m.rendered == nil {
			return
		}
		if _, err := stage.Kubectl(policies(m.rendered.Text), "delete", "--ignore-not-found", "-f", "-"); err != nil {
			t.Error(err)
		}
	})
	m.apply(t)
	for _, label := range labels {
		m.awaitPolicies(t, label)
	}
	return m
}

// policies are the documents of a render that are admission policies and their bindings.
func policies(rendered string) string {
	var kept []string
	for document := range strings.SplitSeq(rendered, "\n---\n") {
		if strings.Contains(document, "apiVersion: admissionregistration.k8s.io/") {
			kept = append(kept, document)
		}
	}
	return strings.Join(kept, "\n---\n")
}

// requirePolicies skips the test where the API server cannot inject pods, before Kubernetes 1.36.
func requirePolicies(t *testing.T) {
	t.Helper()
	const group = "/apis/admissionregistration.k8s.io/v1"
	if served := stage.Must(t, "", "get", "--raw", group); !strings.Contains(served, `"mutatingadmissionpolicies"`) {
		program.Missing(t, "MutatingAdmissionPolicy in %s, of Kubernetes 1.36 or later", group)
	}
}

// apply renders the folder and applies what comes out.
func (m *mesh) apply(t *testing.T) {
	t.Helper()
	m.rendered = stage.Read(t, stage.Render(t, m.folder))
	stage.Must(t, m.rendered.Text, "apply", "--validate=strict", "-f", "-")
}

func (m *mesh) id(workload string) string {
	return "spiffe://" + api.DefaultDomain + "/ns/" + m.namespace + "/" + workload
}

// awaitPolicies waits until the API server injects a pod with the label, and refuses one that the mesh cannot serve.
func (m *mesh) awaitPolicies(t *testing.T, label string) {
	t.Helper()
	dryRun := func(spec string) (string, error) {
		key, value, _ := strings.Cut(label, "=")
		return stage.Kubectl(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: dry-run, labels: {%s: %s}}
spec: {%scontainers: [{name: app, image: "meshless-test/app:latest"}]}
`, key, value, spec), "-n", m.namespace, "create", "--dry-run=server", "-o", "json", "-f", "-")
	}
	stage.Eventually(t, func() error {
		pod, err := dryRun("")
		if err == nil && !strings.Contains(pod, api.ProxyName) {
			err = errors.New("pods with " + label + " are not injected yet")
		}
		if err != nil {
			return err
		}
		if _, err = dryRun("hostNetwork: true, "); err == nil {
			return errors.New("pods with " + label + " are not checked yet")
		} else if !strings.Contains(err.Error(), "hostNetwork") {
			return err
		}
		return nil
	})
}

// identity is the SPIFFE ID that a pod was injected with.
func identity(pod corev1.Pod) string {
	var workload struct{ SPIFFEID string }
	_ = json.Unmarshal([]byte(pod.Annotations[api.WorkloadAnnotation]), &workload) // none is the empty one
	return workload.SPIFFEID
}

// pods are those of a selector that do not end.
func (m *mesh) pods(t *testing.T, selector string) (living []corev1.Pod) {
	t.Helper()
	for _, pod := range stage.Pods(t, m.namespace, selector) {
		ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		if pod.DeletionTimestamp == nil && !ended {
			living = append(living, pod)
		}
	}
	return living
}

// awaitMeshed waits until there are n pods of the selector, all Ready, and wants each injected for the workload.
func (m *mesh) awaitMeshed(t *testing.T, selector, workload string, n int) (pods []corev1.Pod) {
	t.Helper()
	stage.Poll(t, 5*time.Minute, func() error {
		pods = m.pods(t, selector)
		for _, pod := range pods {
			if !stage.IsReady(pod) {
				return fmt.Errorf("%s is not Ready: %s", pod.Name, pod.Status.Phase)
			}
		}
		if len(pods) != n {
			return fmt.Errorf("%d pods with %s, want %d", len(pods), selector, n)
		}
		return nil
	})
	for _, pod := range pods {
		m.wantMeshed(t, pod, workload)
	}
	return pods
}

func (m *mesh) wantMeshed(t *testing.T, pod corev1.Pod, workload string) {
	t.Helper()
	if got := identity(pod); got != m.id(workload) {
		t.Errorf("%s was injected for %q, want %s", pod.Name, got, m.id(workload))
	}
	var names []string
	for _, c := range pod.Spec.InitContainers {
		names = append(names, c.Name)
	}
	if len(names) < 2 || names[0] != api.InitName || names[1] != api.ProxyName {
		t.Errorf("%s begins with %v, want our containers first", pod.Name, names)
	}
	if init, ok := stage.Container(pod, api.InitName); !ok || init.State.Terminated == nil || init.State.Terminated.ExitCode != 0 {
		t.Errorf("%s: init is %+v, want it done", pod.Name, init.State)
	}
}

// wantInbound wants that the pods took connections by mutual TLS, and none in the clear.
func (m *mesh) wantInbound(t *testing.T, selector string) {
	t.Helper()
	for _, pod := range m.pods(t, selector) {
		if stage.OpenedBy(t, m.namespace, pod.Name, "inbound", "mutual_tls") == 0 {
			t.Errorf("%s took no connection by mutual TLS", pod.Name)
		}
		if n := stage.OpenedBy(t, m.namespace, pod.Name, "inbound", "plaintext"); n > 0 {
			t.Errorf("%s took %v connections in the clear", pod.Name, n)
		}
	}
}

// renew gives the workloads new keys, applies that, and waits until their proxies use them.
func (m *mesh) renew(t *testing.T, workloads ...string) {
	t.Helper()
	before := m.rendered
	var flags []string
	for _, workload := range workloads {
		flags = append(flags, "--renew", workload)
	}
	m.folder.Issue(t, time.Now(), flags...)
	m.apply(t)
	for _, workload := range workloads {
		if id := m.id(workload); before.Leaves[id] == nil || m.rendered.Leaves[id].Equal(before.Leaves[id]) {
			t.Fatalf("%s was not renewed", id)
		}
	}
	m.inForce(t)
}

// inForce waits until every proxy of the package uses the leaf that was applied last.
func (m *mesh) inForce(t *testing.T) {
	t.Helper()
	started := time.Now()
	pods := m.pods(t, api.PackageLabel)
	for _, pod := range pods {
		leaf := m.rendered.Leaves[identity(pod)]
		if leaf == nil {
			t.Fatalf("%s is %q, and has no leaf", pod.Name, identity(pod))
		}
		stage.Poll(t, 150*time.Second, func() error {
			metrics, err := stage.Kubectl("", "get", "--raw", fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:%d/proxy/metrics", m.namespace, pod.Name, api.MetricsPort))
			if err != nil {
				return err
			}
			if got := stage.Metric(t, metrics, "meshless_leaf_not_after_timestamp_seconds"); got != float64(leaf.NotAfter.Unix()) {
				return fmt.Errorf("%s uses a leaf that expires at %.0f, and that of %d was applied", pod.Name, got, leaf.NotAfter.Unix())
			}
			return nil
		})
	}
	t.Logf("in force in %d proxies after %v", len(pods), time.Since(started).Round(100*time.Millisecond))
}
