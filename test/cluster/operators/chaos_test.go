//go:build e2e && linux

package operators

import (
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/test/cluster/stage"
)

// Names of programs as the kernel has them.
const (
	proxyProgram   = "meshless-proxy"
	sandboxProgram = "pause" // without it the kubelet makes another sandbox, in which init runs anew
)

// disturb kills processes of the programs in the pods at random, one in about two seconds, each program at least once.
func disturb(t *testing.T, lasts time.Duration, pods []corev1.Pod, programs ...string) {
	t.Helper()
	stage.RequireNode(t)
	killed := map[string]int{}
	for n, started := 0, time.Now(); time.Since(started) < lasts; n++ {
		program := programs[rand.IntN(len(programs))]
		if n < len(programs) {
			program = programs[n]
		}
		var pids []int
		for pid, uid := range stage.Processes(t, program) {
			if slices.ContainsFunc(pods, func(p corev1.Pod) bool { return string(p.UID) == uid }) {
				pids = append(pids, pid)
			}
		}
		if len(pids) > 0 { // none, where the kubelet is about to start it again
			pid := pids[rand.IntN(len(pids))]
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
				t.Errorf("kill %d: %v", pid, err)
			}
			killed[program]++
		}
		time.Sleep(time.Second + time.Duration(rand.Int64N(int64(2*time.Second))))
	}
	t.Logf("killed: %v", killed)
	for _, program := range programs {
		if killed[program] == 0 {
			t.Errorf("in %v no %s was killed", lasts, program)
		}
	}
}
