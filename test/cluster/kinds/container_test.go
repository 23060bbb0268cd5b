//go:build e2e && linux

package kinds

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/stage"
)

// containerMode gives our containers limits equal to their requests, so that a Guaranteed pod stays one.
const containerMode = `  sidecar: {mode: Container}
  proxy: {resources: {requests: {cpu: 100m, memory: 64Mi}, limits: {cpu: 100m, memory: 64Mi}}}
  init: {resources: {requests: {cpu: 50m, memory: 64Mi}, limits: {cpu: 50m, memory: 64Mi}}}
`

// TestContainerMode: the same with the sidecar as the first of the containers.
func TestContainerMode(t *testing.T) {
	const namespace = "kinds-container"
	stage.Deploy(t, namespace, "testdata/container.yaml", containerMode)
	stage.Rollout(t, namespace, "deployment/web")
	stage.Ready(t, namespace, "pod/load")
	t.Run("the proxy is a container, and the pod as Guaranteed as its app", func(t *testing.T) {
		for _, pod := range stage.Pods(t, namespace, "app=web") {
			if first := pod.Spec.Containers[0].Name; first != api.ProxyName || pod.Status.QOSClass != corev1.PodQOSGuaranteed {
				t.Errorf("%s: the first container is %s, and the pod %s, want the proxy, and Guaranteed", pod.Name, first, pod.Status.QOSClass)
			}
		}
	})
	t.Run("kubectl chooses the app", func(t *testing.T) {
		if out := stage.Must(t, "", "-n", namespace, "exec", "deployment/web", "--", "/app", "call", "http://127.0.0.1:8080/"); !strings.Contains(out, "127.0.0.1") {
			t.Errorf("without -c, kubectl exec printed %q", out)
		}
	})
	t.Run("a Job that tells the proxy to quit ends", func(t *testing.T) {
		stage.Must(t, "", "-n", namespace, "wait", "--for=condition=complete", "job/once", "--timeout=100s")
		stage.Eventually(t, func() error {
			pod := stage.Pods(t, namespace, "job-name=stays")[0]
			app, _ := stage.Container(pod, "stays")
			if proxy, _ := stage.Container(pod, api.ProxyName); app.State.Terminated == nil || proxy.State.Running == nil {
				return fmt.Errorf("the control: the app is %+v, and the proxy %+v; want it ended, and the proxy alone", app.State, proxy.State)
			}
			return nil
		})
	})
	t.Run("a rollout under load fails no request", func(t *testing.T) {
		stage.ResetLoad(t, namespace)
		stage.Must(t, "", "-n", namespace, "rollout", "restart", "deployment/web")
		stage.Rollout(t, namespace, "deployment/web")
		stage.WantNoFailure(t, namespace)
		if n := stage.OpenedBy(t, namespace, "load", "outbound", "mutual_tls"); n == 0 {
			t.Error("the load opened no connection by mutual TLS")
		}
		for _, security := range []string{"plaintext", "passthrough"} {
			if n := stage.OpenedBy(t, namespace, "load", "outbound", security); n > 0 {
				t.Errorf("the load opened %v connections of %s", n, security)
			}
		}
	})
}
