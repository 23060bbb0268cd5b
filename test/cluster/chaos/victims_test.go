//go:build e2e && linux

package chaos

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/cluster/stage"
)

// Names of programs in the pods of the chain, as the kernel has them.
const (
	proxyProgram = "meshless-proxy"
	appProgram   = "app"
	pauseProgram = "pause" // of the sandbox: without it the kubelet makes another, in which init runs anew
)

// killer kills, and starts again what nobody else would.
type killer struct {
	random *rand.Rand
	pods   []stage.Replica
	killed map[string]int // how often, by kind
}

// victims are the kinds; those of a pod are more likely, as there are more of them.
var victims = []string{proxyProgram, proxyProgram, proxyProgram, appProgram, appProgram, pauseProgram, pauseProgram, "kubelet", "containerd", "proxy"}

// order is each kind once, at random: so many are killed before chance alone rules.
func (k *killer) order() []string {
	kinds := slices.Compact(slices.Clone(victims))
	k.random.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	return kinds
}

// kill kills one of a kind. What is a part of the node is down for up to 4 s.
func (k *killer) kill(t *testing.T, kind string) {
	t.Helper()
	k.killed[kind]++
	switch kind {
	case "kubelet", "containerd", "proxy":
		down := time.Duration(k.random.IntN(4000)) * time.Millisecond
		before := settled(t)
		daemon := stage.FindDaemon(t, kind)
		t.Logf("kill %s for %v", kind, down)
		daemon.Kill(t)
		time.Sleep(down)
		daemon.Start(t, nil)
		wantAlive(t, kind, before)
	default:
		k.killProgram(t, kind)
	}
}

// couple is a pod's sandbox and its proxy.
type couple struct{ sandbox, proxy int }

// settled are the couples of the pods that have both. One whose sandbox died a moment ago is about to lose its proxy to
// the kubelet, which begins anew.
func settled(t *testing.T) map[string]couple {
	t.Helper()
	couples, proxies := map[string]couple{}, map[string]int{}
	for pid, uid := range stage.Processes(t, proxyProgram) {
		proxies[uid] = pid
	}
	for pid, uid := range stage.Processes(t, pauseProgram) {
		if proxies[uid] != 0 {
			couples[uid] = couple{pid, proxies[uid]}
		}
	}
	return couples
}

// wantAlive wants each proxy whose sandbox lives on to have lived on as well while a part of the node was dead.
func wantAlive(t *testing.T, kind string, before map[string]couple) {
	t.Helper()
	proxies, sandboxes := stage.Processes(t, proxyProgram), stage.Processes(t, pauseProgram)
	for uid, c := range before {
		if sandboxes[c.sandbox] == uid && proxies[c.proxy] != uid {
			t.Errorf("%s died, and with it the proxy %d of pod %s", kind, c.proxy, uid)
		}
	}
}

// killProgram kills a process of one of the pods; one whose sandbox or container is about to come back has none, and is
// passed over.
func (k *killer) killProgram(t *testing.T, program string) {
	t.Helper()
	running := stage.Processes(t, program)
	var pids []int
	for pid, uid := range running {
		if slices.ContainsFunc(k.pods, func(p stage.Replica) bool { return string(p.UID) == uid }) {
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		t.Logf("no %s runs just now", program)
		return
	}
	slices.Sort(pids)
	pid := pids[k.random.IntN(len(pids))]
	at := slices.IndexFunc(k.pods, func(p stage.Replica) bool { return string(p.UID) == running[pid] })
	t.Logf("kill %s of %s, process %d", program, k.pods[at].Name, pid)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
		t.Errorf("kill %d: %v", pid, err)
	}
}

// seed is $CHAOS_SEED, or of the clock.
func seed(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv("CHAOS_SEED")
	if text == "" {
		return uint64(time.Now().UnixNano())
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(fmt.Errorf("CHAOS_SEED: %w", err))
	}
	return n
}
