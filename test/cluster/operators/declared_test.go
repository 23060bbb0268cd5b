//go:build e2e && linux

package operators

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
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

// days before now is when a commit is made, so that what it makes is valid now, and those that follow are past, too.
func days(before float64) time.Time {
	return time.Now().Add(-time.Duration(before * 24 * float64(time.Hour)))
}

// deploy applies a package of the manifests with the declarations in config, and waits until its policies count for
// pods with each of the labels. Its certificates are nine days old.
func deploy(t *testing.T, namespace, manifests, config string, labels ...string) *mesh {
	t.Helper()
	m := &mesh{namespace: namespace, folder: stage.Package(t, namespace, manifests, config)}
	m.folder.Issue(t, days(9))
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

// renew gives the workloads new keys, and waits until their proxies use them.
func (m *mesh) renew(t *testing.T, before float64, workloads ...string) {
	t.Helper()
	old := m.rendered
	m.applyRenewed(t, before, workloads...)
	for _, workload := range workloads {
		if id := m.id(workload); old.Leaves[id] == nil || m.rendered.Leaves[id].Equal(old.Leaves[id]) {
			t.Fatalf("%s was not renewed", id)
		}
	}
	m.inForce(t)
}

func (m *mesh) applyRenewed(t *testing.T, before float64, workloads ...string) {
	t.Helper()
	var flags []string
	for _, workload := range workloads {
		flags = append(flags, "--renew", workload)
	}
	m.folder.Issue(t, days(before), flags...)
	m.apply(t)
}

// inForce waits until every proxy of the package uses the leaf and the bundle that were applied last.
func (m *mesh) inForce(t *testing.T) {
	t.Helper()
	started := time.Now()
	pods := m.pods(t, api.PackageLabel)
	for _, pod := range pods {
		stage.Poll(t, 150*time.Second, func() error { return m.uses(t, pod) })
	}
	t.Logf("in force in %d proxies after %v", len(pods), time.Since(started).Round(100*time.Millisecond))
}

// uses is nil when the pod's proxy has what was applied last, by the times at which leaf and authorities end.
func (m *mesh) uses(t *testing.T, pod corev1.Pod) error {
	t.Helper()
	leaf := m.rendered.Leaves[identity(pod)]
	if leaf == nil {
		t.Fatalf("%s is %q, and has no leaf", pod.Name, identity(pod))
	}
	metrics, err := stage.Kubectl("", "get", "--raw", fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:%d/proxy/metrics", m.namespace, pod.Name, api.MetricsPort))
	if err != nil {
		return err
	}
	byEnd := func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) }
	for _, want := range []struct {
		name, label string
		end         time.Time
	}{
		{"meshless_leaf_not_after_timestamp_seconds", "", leaf.NotAfter},
		{"meshless_ca_not_after_timestamp_seconds", `which="soonest"`, slices.MinFunc(m.rendered.Bundle, byEnd).NotAfter},
		{"meshless_ca_not_after_timestamp_seconds", `which="latest"`, slices.MaxFunc(m.rendered.Bundle, byEnd).NotAfter},
	} {
		if got := stage.Metric(t, metrics, want.name, want.label); got != float64(want.end.Unix()) {
			return fmt.Errorf("%s: %s{%s} is %.0f, and %d was applied", pod.Name, want.name, want.label, got, want.end.Unix())
		}
	}
	return nil
}
