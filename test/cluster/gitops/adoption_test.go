//go:build e2e && linux

package gitops

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/test/app/load"
	"github.com/meshless-dev/meshless/test/cluster/stage"
)

// plain is what the kustomization holds outside of the mesh. The folder mtls/ stays in Git for the way back.
const plain = "resources: [app.yaml]\n"

// testOutAndIn goes out of the mesh by the steps of docs/adoption.md in reverse, and in again by the steps as they
// stand.
func testOutAndIn(t *testing.T, a *stage.Chain) {
	const exclude = `outbound: {excludePorts: ["1-65535"]}`
	const meshed = "resources: [app.yaml, mtls]\ntransformers: [mtls.yaml]\n"
	w := &way{Chain: a}
	w.TakeStats(t) // some asked before others were there
	w.reload(t, "back of 3: accept plaintext as well", "mtls.yaml", "mode: Strict", "mode: Permissive")
	outsider := stage.Outsider(20, "http://front:8080/", "http://middle:8080/", "http://back:8080/")
	stage.Must(t, outsider, "-n", a.Namespace, "apply", "-f", "-")
	stage.Must(t, "", "-n", a.Namespace, "wait", "--for=condition=Ready", "pod/outsider", "--timeout=30s")
	w.outsider = true
	w.roll(t, "back of 2: send no mutual TLS any more", "mtls.yaml", "outbound: {}", exclude)
	w.roll(t, "back of 1: take the function out", "kustomization.yaml", meshed, plain)
	for _, p := range a.Pods {
		if p.Meshed {
			t.Errorf("%s is still in the mesh", p.Name)
		}
	}
	if diff := cmp.Diff([]string{"Secret/meshless-identity"}, leftovers(t, a.Namespace)); diff != "" {
		t.Errorf("left behind, but for the identity, which no manifest names:\n%s", diff)
	}
	w.roll(t, "1: every pod gets its sidecar", "kustomization.yaml", plain, meshed)
	w.roll(t, "2: send mutual TLS", "mtls.yaml", exclude, "outbound: {}")
	w.outsider = false // it is refused from now on
	w.reload(t, "3: accept nothing else", "mtls.yaml", "mode: Permissive", "mode: Strict")
}

// way is a way of commits.
type way struct {
	*stage.Chain
	outsider bool // it asks, and none of its requests may fail
}

// reload commits a change that restarts no pod.
func (w *way) reload(t *testing.T, name, file, old, with string) {
	t.Helper()
	w.commit(t, file, old, with)
	w.InForce(t)
	w.Unchanged(t)
	w.wantNoFailure(t, name, load.Stats{})
}

// roll commits a change by which every pod is replaced, and waits until that is over.
func (w *way) roll(t *testing.T, name, file, old, with string) {
	t.Helper()
	started := time.Now()
	callers := follow(t, w.Chain)
	before := w.Pods
	w.commit(t, file, old, with)
	w.Rollout(t)
	for _, p := range w.Pods {
		if slices.ContainsFunc(before, func(b stage.Replica) bool { return b.UID == p.UID }) {
			t.Errorf("%s: %s was not replaced", name, p.Name)
		}
	}
	w.AwaitRequests(t, 20, stage.Callers...)
	w.wantNoFailure(t, name, callers.stats(t))
	t.Logf("%s: %v", name, time.Since(started).Round(time.Second))
}

func (w *way) commit(t *testing.T, file, old, with string) {
	t.Helper()
	w.Folder.Replace(t, file, old, with)
	if with == plain {
		prune(t, w.Chain, w.Folder.Plain(t))
		return
	}
	w.Folder.Issue(t, time.Now()) // as a pipeline would; it finds nothing to do
	w.Rendered = stage.Read(t, stage.Render(t, w.Folder))
	prune(t, w.Chain, w.Rendered.Text)
}

// wantNoFailure wants none of the callers that run, of the outsider, and of those who ended.
func (w *way) wantNoFailure(t *testing.T, name string, ended load.Stats) {
	t.Helper()
	all := w.TakeStats(t)
	if w.outsider {
		all["outsider"] = w.TakeStatsOf(t, "outsider")
	}
	all["ended"] = ended
	for caller, s := range all {
		if s.Failed > 0 {
			t.Errorf("%s: %s: %s", name, caller, s)
		}
		t.Logf("%s: %s: %d requests, %d kept connections ended", name, caller, s.Requests, s.Reopened)
	}
}

// followed are the logs of callers, which say at their end what came of their requests.
type followed struct {
	commands []*exec.Cmd
	logs     []*bytes.Buffer
}

func follow(t *testing.T, a *stage.Chain) *followed {
	t.Helper()
	f := &followed{}
	for _, p := range a.Of(stage.Callers...) {
		log := &bytes.Buffer{}
		cmd := exec.CommandContext(t.Context(), "kubectl", "-n", a.Namespace, "logs", "-f", p.Name, "-c", "caller")
		cmd.Stdout = log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		f.commands, f.logs = append(f.commands, cmd), append(f.logs, log)
	}
	return f
}

// stats waits for the end of the callers, which are gone by now, and adds up.
func (f *followed) stats(t *testing.T) load.Stats {
	t.Helper()
	var sum load.Stats
	for i, cmd := range f.commands {
		over := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		over.Stop()
		lines := strings.Split(strings.TrimSpace(f.logs[i].String()), "\n")
		var s load.Stats
		if failed := json.Unmarshal([]byte(lines[len(lines)-1]), &s); failed != nil || s.Requests == 0 {
			t.Errorf("a caller that was replaced did not say what came of its requests (%v, %v): %q", err, failed, f.logs[i].String())
		}
		sum.Add(s)
	}
	return sum
}
