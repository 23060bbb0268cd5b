//go:build e2e && linux

package failures

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/lab"
)

const (
	mesh  = "failures-mesh"
	plain = "failures-plain"
)

// TestFailures deploys the pair twice, in the mesh and not, and lets one thing after another die.
func TestFailures(t *testing.T) {
	stage.DeployPlain(t, plain, "testdata/pair.yaml")
	stage.Deploy(t, mesh, "testdata/pair.yaml", "")
	for _, namespace := range []string{mesh, plain} {
		stage.Rollout(t, namespace, "deployment/web")
		stage.Ready(t, namespace, "pod/load")
	}
	t.Run("a pod that is deleted while it serves fails no request", testDeletedPod)
	t.Run("init that runs again in a pod that lives writes the same rules and fails no request", testInitAgain)
	t.Run("a proxy that is killed comes back, and meanwhile nothing leaves in the clear", testKilledProxy)
	t.Run("a proxy that runs out of memory comes back, and meanwhile nothing arrives in the clear", testMemory)
	t.Run("a pod whose rules are flushed is not ready and says why", testFlushed)
	t.Run("a pod whose sandbox dies gets its rules again", testSandbox)
	t.Run("a kubelet that restarts fails no request and restarts nothing", testKubelet)
}

// testDeletedPod deletes one of two replicas; its successor takes its place under the load.
func testDeletedPod(t *testing.T) {
	for _, namespace := range []string{plain, mesh} {
		stage.ResetLoad(t, namespace)
		victim := stage.Pods(t, namespace, "app=web")[0].Name
		stage.Must(t, "", "-n", namespace, "delete", "pod", victim, "--wait")
		stage.Rollout(t, namespace, "deployment/web")
	}
	stage.WantNoMoreFailures(t, mesh, plain)
}

// testInitAgain runs init a second time in the network namespace of the load's pod, as a kubelet does whose record of
// the first run is lost. The rules are replaced in one transaction, so that there is no moment without them, and
// connections that are open stay.
func testInitAgain(t *testing.T) {
	stage.ResetLoad(t, mesh)
	var init corev1.Container
	for _, c := range stage.Pod(t, mesh, "load").Spec.InitContainers {
		if c.Name == api.InitName {
			init = c
		}
	}
	args := []string{"-n", mesh, "debug", "load", "--image=" + init.Image, "--image-pull-policy=IfNotPresent", "--profile=netadmin", "--container=again", "--arguments-only", "--"}
	stage.Must(t, "", append(args, init.Args...)...)
	stage.Eventually(t, func() error {
		for _, s := range stage.Pod(t, mesh, "load").Status.EphemeralContainerStatuses {
			if s.State.Terminated != nil && s.State.Terminated.ExitCode == 0 {
				return nil
			}
		}
		return fmt.Errorf("the second init has not ended well: %s", stage.Must(t, "", "-n", mesh, "get", "pod", "load", "-o", "jsonpath={.status.ephemeralContainerStatuses}"))
	})
	rules := func(container string) string {
		log := stage.Must(t, "", "-n", mesh, "logs", "load", "-c", container)
		at := strings.Index(log, "chain prerouting")
		if at < 0 {
			t.Fatalf("%s printed no rules:\n%s", container, log)
		}
		return log[at:]
	}
	if first, second := rules(api.InitName), rules("again"); first != second {
		t.Errorf("the first init left\n%s\nthe second\n%s", first, second)
	}
	stage.WantNoFailure(t, mesh)
}

// testKilledProxy kills the proxy of the load twice, the second time so that the kubelet waits before it starts it
// again. The load goes on to try, and the kernel still redirects what it opens to where nobody listens. The control is
// the same load without a mesh.
func testKilledProxy(t *testing.T) {
	stage.RequireNode(t)
	watch := watchWire(t)
	stage.ResetLoad(t, mesh)
	for n := range int32(2) {
		stage.Eventually(t, func() error { return restarts(t, "load", api.ProxyName, n) })
		stage.Ctr(t, "tasks", "kill", "-s", "SIGKILL", stage.ContainerID(t, stage.Pod(t, mesh, "load"), api.ProxyName))
	}
	stage.Eventually(t, func() error { return restarts(t, "load", api.ProxyName, 2) })
	if s := stage.LoadStats(t, mesh); s.Failed == 0 {
		t.Error("no request failed while the proxy was dead: this test could not see plaintext")
	}
	watch.wantEncrypted(t)
	recovers(t)
}

// testMemory takes from the proxy of one replica the memory that it has not used yet, as a limit that is too small
// does.
func testMemory(t *testing.T) {
	stage.RequireNode(t)
	watch := watchWire(t)
	pod := stage.Pods(t, mesh, "app=web")[0]
	squeeze(t, pod)
	stage.Eventually(t, func() error { return restarts(t, pod.Name, api.ProxyName, 1) })
	status, _ := stage.Container(stage.Pod(t, mesh, pod.Name), api.ProxyName)
	if ended := status.LastTerminationState.Terminated; ended == nil || ended.Reason != "OOMKilled" {
		t.Errorf("the proxy of %s ended as %+v, want OOMKilled", pod.Name, status.LastTerminationState)
	}
	watch.wantEncrypted(t)
	recovers(t)
}

// restarts is nil when the container is ready and has restarted that often, or more.
func restarts(t *testing.T, pod, container string, times int32) error {
	status, _ := stage.Container(stage.Pod(t, mesh, pod), container)
	if status.RestartCount < times || !status.Ready {
		return fmt.Errorf("%s of %s: %d restarts, ready: %v; want %d", container, pod, status.RestartCount, status.Ready, times)
	}
	return nil
}

// recovers wants all pods Ready, the load answered without failure, and no restart of an app.
func recovers(t *testing.T) {
	t.Helper()
	stage.Rollout(t, mesh, "deployment/web")
	stage.Ready(t, mesh, "pod/load")
	stage.Eventually(t, func() error { // the Service takes a moment to have both replicas again
		stage.ResetLoad(t, mesh)
		if s := stage.LoadStats(t, mesh); s.Failed > 0 || len(serving(t)) < 2 {
			return fmt.Errorf("%d of %d requests fail, %d replicas serve", s.Failed, s.Requests, len(serving(t)))
		}
		return nil
	})
	stage.ResetLoad(t, mesh)
	stage.WantNoFailure(t, mesh)
	stage.WantNoRestarts(t, stage.Pods(t, mesh, "app"), api.ProxyName)
}

// serving are the addresses that the Service leads to.
func serving(t *testing.T) []string {
	t.Helper()
	return strings.Fields(stage.Must(t, "", "-n", mesh, "get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o",
		`jsonpath={range .items[*].endpoints[?(@.conditions.ready==true)]}{.addresses[0]}{"\n"}{end}`))
}

// wire looks at the packets of this machine for what the two loads send.
type wire struct {
	*lab.Search
	mark map[string]string // by namespace: the UID of the pod load
}

func watchWire(t *testing.T) *wire {
	t.Helper()
	mark := map[string]string{}
	for _, namespace := range []string{mesh, plain} {
		mark[namespace] = string(stage.Pod(t, namespace, "load").UID)
	}
	return &wire{lab.SearchHost(t, mark[mesh], mark[plain]), mark}
}

// wantEncrypted ends the capture.
func (w *wire) wantEncrypted(t *testing.T) {
	t.Helper()
	w.Stop()
	t.Logf("%d frames seen, %d missed", w.Frames, w.Missed())
	if w.Missed() > w.Frames/10 { // each load sends its mark 20 times a second, so what is seen tells
		t.Errorf("%d frames were not seen, beside %d that were", w.Missed(), w.Frames)
	}
	for way, n := range w.Seen[w.mark[mesh]] {
		t.Errorf("%d frames carried the mark in the clear: %s; the first of all at %s", n, way, w.First[w.mark[mesh]])
	}
	if len(w.Seen[w.mark[plain]]) == 0 {
		t.Errorf("the control, the mark of the load without a mesh, was not seen among %d frames: this test could not fail", w.Frames)
	}
}
