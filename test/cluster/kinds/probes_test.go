//go:build e2e && linux

package kinds

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/test/cluster/stage"
)

// testProbes: the Deployment probed is Ready, which takes a yes of each of its nine probes. What must fail is in the
// pod unready: its containers run, and none is ready.
func testProbes(t *testing.T) {
	kinds := map[string]bool{}
	for _, c := range stage.Pods(t, namespace, "app=probed")[0].Spec.Containers {
		for name, probe := range map[string]*corev1.Probe{"startup": c.StartupProbe, "readiness": c.ReadinessProbe, "liveness": c.LivenessProbe} {
			switch {
			case probe.Exec != nil:
				kinds["exec"] = true
			case probe.HTTPGet == nil || probe.HTTPGet.Port.IntValue() != api.HealthPort:
				t.Errorf("the %s probe of %s goes past the proxy: %+v", name, c.Name, probe)
			}
		}
	}
	if !kinds["exec"] {
		t.Error("no exec probe is left as it was")
	}
	stage.Eventually(t, func() error {
		pod := stage.Pod(t, namespace, "unready")
		for _, c := range pod.Spec.Containers {
			status, ok := stage.Container(pod, c.Name)
			if !ok || status.State.Running == nil {
				return fmt.Errorf("container %s does not run yet", c.Name)
			}
		}
		proxy, _ := stage.Container(pod, api.ProxyName)
		if !proxy.Ready {
			return fmt.Errorf("the proxy is not ready yet")
		}
		return nil
	})
	log := func() string { return stage.Must(t, "", "-n", namespace, "logs", "unready", "-c", api.ProxyName) }
	for _, c := range []string{"headers", "scheme", "socket", "grpc"} {
		stage.Eventually(t, func() error {
			if key := podplan.HandlerKey(c, "readinessProbe"); !strings.Contains(log(), key) {
				return fmt.Errorf("the proxy does not log that %s fails", key)
			}
			return nil
		})
		if status, _ := stage.Container(stage.Pod(t, namespace, "unready"), c); status.Ready {
			t.Errorf("container %s is ready, and its probe must fail", c)
		}
	}
}

// probedPod is the pod of the Deployment probed.
func probedPod(t *testing.T) corev1.Pod {
	t.Helper()
	return stage.Pods(t, namespace, "app=probed")[0]
}

// tell lets a container of probed answer its health checks with no, or with yes again.
func tell(t *testing.T, port int, path string) {
	t.Helper()
	if a := stage.Call(t, namespace, probedPod(t).Name, "slow", fmt.Sprintf("http://127.0.0.1:%d%s", port, path))[0]; a.Error != "" {
		t.Fatal(a)
	}
}

func testLiveness(t *testing.T) {
	tell(t, 9191, "/fail")
	stage.Eventually(t, func() error {
		slow, _ := stage.Container(probedPod(t), "slow")
		if slow.RestartCount == 0 || !slow.Ready {
			return fmt.Errorf("container slow: %d restarts, ready: %v", slow.RestartCount, slow.Ready)
		}
		return nil
	})
	stage.WantNoRestarts(t, []corev1.Pod{probedPod(t)}, "slow")
	stage.Ready(t, namespace, "pods", "-l", "app=probed")
}

func testReadiness(t *testing.T) {
	client := func() stage.Answer { return stage.Call(t, namespace, "client", "client", "http://probed/")[0] }
	if a := client(); a.Error != "" {
		t.Fatalf("before: %+v", a)
	}
	tell(t, 9090, "/fail")
	stage.Eventually(t, func() error {
		if grpc, _ := stage.Container(probedPod(t), "grpc"); grpc.Ready {
			return fmt.Errorf("container grpc is still ready")
		}
		if a := client(); a.Error == "" {
			return fmt.Errorf("the Service still leads to the pod: %+v", a)
		}
		return nil
	})
	tell(t, 9090, "/heal")
	stage.Eventually(t, func() error {
		if a := client(); a.Error != "" {
			return fmt.Errorf("the Service does not lead to the pod again: %+v", a)
		}
		return nil
	})
	stage.WantNoRestarts(t, []corev1.Pod{probedPod(t)}, "slow")
}

// testRequests reads the live pods of web: a HorizontalPodAutoscaler with a target of CPU utilization gives up on a pod
// in which one container, or native sidecar, has no request (k8s.io/kubernetes/pkg/controller/podautoscaler,
// calculatePodRequests). A pod with requests stays Burstable.
func testRequests(t *testing.T) {
	for _, pod := range stage.Pods(t, namespace, "app=web") {
		for _, c := range append(append([]corev1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...) {
			if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() {
				t.Errorf("container %s of %s requests %v, want CPU and memory", c.Name, pod.Name, c.Resources.Requests)
			}
		}
		if len(pod.Spec.InitContainers) != 2 || pod.Status.QOSClass != corev1.PodQOSBurstable {
			t.Errorf("%s has %d init containers and is %s, want ours alone, and Burstable as without them", pod.Name, len(pod.Spec.InitContainers), pod.Status.QOSClass)
		}
	}
}
