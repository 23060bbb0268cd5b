//go:build e2e && linux

package failures

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/stage"
)

// testSandbox kills the process that holds the pod's namespaces. The kubelet makes a sandbox anew and starts everything
// in it from the first init container on.
func testSandbox(t *testing.T) {
	stage.RequireNode(t)
	watch := watchWire(t)
	pod := stage.Pods(t, mesh, "app=web")[0]
	before, _ := stage.Container(pod, api.InitName)
	stage.Ctr(t, "tasks", "kill", "-s", "SIGKILL", stage.SandboxID(t, pod))
	stage.Eventually(t, func() error {
		now := stage.Pod(t, mesh, pod.Name)
		init, _ := stage.Container(now, api.InitName)
		proxy, _ := stage.Container(now, api.ProxyName)
		if init.ContainerID == before.ContainerID || init.State.Terminated == nil || init.State.Terminated.ExitCode != 0 || !proxy.Ready {
			return fmt.Errorf("init of %s: %+v, proxy ready: %v", pod.Name, init.State, proxy.Ready)
		}
		return nil
	})
	stage.Rollout(t, mesh, "deployment/web")
	watch.wantEncrypted(t)
	now := stage.Pod(t, mesh, pod.Name)
	if rules := stage.Must(t, "", "-n", mesh, "logs", pod.Name, "-c", api.InitName); !strings.Contains(rules, "chain output") {
		t.Errorf("the second init printed no rules:\n%s", rules)
	}
	a := stage.Call(t, plain, "load", "load", "http://"+now.Status.PodIP+":8080/")[0]
	if a.Error == "" {
		t.Errorf("%s answers plaintext since its sandbox was made anew: %+v", pod.Name, a)
	}
	stage.Eventually(t, func() error {
		if len(serving(t)) < 2 {
			return fmt.Errorf("the Service leads to %v only", serving(t))
		}
		return nil
	})
	time.Sleep(4 * time.Second) // requests to the address that is gone wait for 3 s, and count when they end
	stage.ResetLoad(t, mesh)
	stage.WantNoFailure(t, mesh)
}

// testFlushed takes the rules of a pod away, as a script on the node does. The kubelet sees that it is not ready, its
// Service leads elsewhere, and the log says which chains are missing. The next sandbox has rules again.
func testFlushed(t *testing.T) {
	stage.RequireNode(t)
	pod := stage.Pods(t, mesh, "app=web")[0]
	flush := func(what ...string) {
		t.Helper()
		enter := []string{"--net=/proc/" + strconv.Itoa(stage.PID(t, stage.SandboxID(t, pod))) + "/ns/net", "nft", "flush"}
		if out, err := exec.CommandContext(t.Context(), "nsenter", append(enter, what...)...).CombinedOutput(); err != nil {
			t.Fatalf("nft flush %s: %v: %s", what, err, out)
		}
	}
	for _, c := range []struct {
		flush  string
		chains []string
	}{{"chain inet meshless output", []string{"output"}}, {"ruleset", []string{"prerouting", "output", "guard"}}} {
		flush(strings.Fields(c.flush)...)
		stage.Eventually(t, func() error {
			proxy, _ := stage.Container(stage.Pod(t, mesh, pod.Name), api.ProxyName)
			if proxy.Ready || slices.Contains(serving(t), pod.Status.PodIP) {
				return fmt.Errorf("%s without rules: ready %v, served by %v", pod.Name, proxy.Ready, serving(t))
			}
			return nil
		})
		stage.Eventually(t, func() error {
			log := stage.Must(t, "", "-n", mesh, "logs", pod.Name, "-c", api.ProxyName)
			for _, chain := range c.chains {
				if !strings.Contains(log, fmt.Sprintf(`"the rules of meshless-init are not in force: plaintext may pass the proxy by","chain":%q`, chain)) {
					return fmt.Errorf("the log of %s does not name the chain %s:\n%s", pod.Name, chain, log)
				}
			}
			return nil
		})
	}
	if events := stage.Must(t, "", "-n", mesh, "get", "events", "--field-selector", "involvedObject.name="+pod.Name); !strings.Contains(events, "Readiness probe failed") {
		t.Errorf("no event says it:\n%s", events)
	}
	stage.Must(t, "", "-n", mesh, "delete", "pod", pod.Name, "--wait")
	stage.Rollout(t, mesh, "deployment/web")
}

// testKubelet kills the kubelet and starts it again while the load runs.
func testKubelet(t *testing.T) {
	stage.RequireNode(t)
	before := counts(t)
	for _, namespace := range []string{plain, mesh} {
		stage.ResetLoad(t, namespace)
	}
	kubelet := stage.FindDaemon(t, "kubelet")
	kubelet.Kill(t)
	started := time.Now()
	kubelet.Start(t, nil)
	stage.Eventually(t, func() error { // its lease, and a pod that starts, show that it is back
		text := stage.Must(t, "", "-n", "kube-node-lease", "get", "leases", "-o", "jsonpath={.items[0].spec.renewTime}")
		if renewed, err := time.Parse(time.RFC3339Nano, text); err != nil || renewed.Before(started) {
			return fmt.Errorf("the kubelet has not renewed its lease since %s: %v", text, err)
		}
		return nil
	})
	stage.Must(t, "", "-n", plain, "run", "after", "--image=meshless-test/app:latest", "--image-pull-policy=IfNotPresent", "--restart=Never", "--", "serve")
	stage.Ready(t, plain, "pod/after")
	stage.WantNoMoreFailures(t, mesh, plain)
	if after := counts(t); after != before {
		t.Errorf("containers and restarts were\n%s\nand are\n%s", before, after)
	}
}

// counts are the containers of the mesh's pods, with their identifiers and restarts.
func counts(t *testing.T) string {
	t.Helper()
	var lines []string
	for _, pod := range stage.Pods(t, mesh, "app") {
		for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
			for _, s := range list {
				lines = append(lines, fmt.Sprintf("%s %s %s %d", pod.Name, s.Name, s.ContainerID, s.RestartCount))
			}
		}
	}
	return strings.Join(lines, "\n")
}

// squeeze sets the memory limit of the running proxy to what it holds now, in the cgroup of version 1 or 2, until the
// kernel kills it. New connections of the load need more.
func squeeze(t *testing.T, pod corev1.Pod) {
	t.Helper()
	id := stage.ContainerID(t, pod, api.ProxyName)
	limit := memoryLimit(t, stage.PID(t, id))
	stage.Eventually(t, func() error {
		if status, _ := stage.Container(stage.Pod(t, mesh, pod.Name), api.ProxyName); status.ContainerID != "containerd://"+id || status.State.Running == nil {
			return nil
		}
		for size := 1 << 20; size < 256<<20; size += 256 << 10 {
			// version 1 takes no limit below what cannot be reclaimed
			if err := os.WriteFile(limit, []byte(strconv.Itoa(size)), 0); err == nil || os.IsNotExist(err) {
				return fmt.Errorf("the proxy lives within %d KiB", size>>10)
			}
		}
		return fmt.Errorf("no limit below 256 MiB could be set")
	})
}

// memoryLimit is the file with the memory limit of a process.
func memoryLimit(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	unified := ""
	for line := range strings.Lines(string(text)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(part) != 3:
		case part[1] == "memory":
			return filepath.Join("/sys/fs/cgroup/memory", part[2], "memory.limit_in_bytes")
		case part[0] == "0":
			unified = filepath.Join("/sys/fs/cgroup", part[2], "memory.max")
		}
	}
	if unified == "" {
		t.Fatalf("process %d is in no cgroup with a memory limit:\n%s", pid, text)
	}
	return unified
}
