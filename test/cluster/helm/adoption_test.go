//go:build e2e && linux

package helm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/app/load"
	"github.com/meshless-dev/meshless/test/cluster/stage"
)

const (
	permissive = "  inbound: {mode: Permissive}\n"
	exclude    = "  outbound: {excludePorts: [\"1-65535\"]}\n"
	marker     = "the-marker-of-the-release"
)

// TestAdoption takes a release that runs into the mesh by the steps of docs/adoption.md, each an upgrade, and out again
// by rollbacks, one for each step, and an upgrade without the post-renderer. No request may fail meanwhile.
func TestAdoption(t *testing.T) {
	removeCRD(t)
	eachHelm(t, func(t *testing.T, h *helm) {
		r := newRelease(t, h, "helm-adoption", orders, permissive+exclude, "--set=callers=2")
		l := &ledger{release: r, pods: map[string]*caller{}}
		r.meshed = false
		r.upgrade(t)
		l.begin(t)
		revisions := map[int]int{} // of each step
		step := func(n int, name string, do func()) {
			started := time.Now()
			do()
			revisions[n], _ = r.revision(t)
			l.wantNoFailure(t, name)
			t.Logf("%s: %v", name, time.Since(started).Round(time.Second))
		}
		config := func(change string) {
			if change != "" {
				r.folder.Replace(t, "mtls.yaml", change, "")
			}
			r.issue(t, time.Now())
			r.upgrade(t)
		}
		r.meshed = true
		r.wantImmutable(t)
		step(1, "1: every pod gets its sidecar", func() { r.set("migration=v2"); config("") })
		wantMeshed(t, r, true)
		step(2, "2: send mutual TLS", func() { r.set("migration=v3"); config(exclude) })
		pods := r.pods(t, "web", "store", "load")
		step(3, "3: accept nothing else", func() { config(permissive); r.awaitPlaintext(t, false) })
		wire := stage.WatchWire(t, r.namespace, marker)
		l.wantNoFailure(t, "in the mesh")
		wire.WantSecret(t)
		step(-3, "back of 3: accept plaintext as well", func() { r.rollback(t, revisions[2]); r.awaitPlaintext(t, true) })
		wantSamePods(t, pods, r.pods(t, "web", "store", "load"))
		step(-2, "back of 2: send no mutual TLS any more", func() { r.rollback(t, revisions[1]) })
		step(-1, "back of 1: without the post-renderer", func() { r.meshed = false; r.set("migration=v4"); r.upgrade(t) })
		wantMeshed(t, r, false)
		for name := range versions(t, r) {
			// Helm leaves what an upgrade that failed has made, and no later revision holds.
			failed := name == "Secret/meshless-job-migrate-v1"
			if strings.Contains(name, "/meshless-") && name != "Secret/meshless-identity" && !failed {
				t.Errorf("%s is left", name)
			}
		}
	})
}

// wantImmutable: a Job of the release that has run cannot get its sidecar, and Helm stops there, whatever it has
// applied by then. A Job with another name can.
func (r *release) wantImmutable(t *testing.T) {
	t.Helper()
	r.issue(t, time.Now())
	if out, err := r.tryUpgrade(t); err == nil || !strings.Contains(err.Error(), "field is immutable") {
		t.Errorf("a Job that has run gets its sidecar: %v\n%s", err, out)
	}
}

func (r *release) rollback(t *testing.T, revision int) {
	t.Helper()
	r.run(t, "rollback", "my", fmt.Sprint(revision), "--wait", "--timeout=90s")
}

// awaitPlaintext waits until every pod of web answers somebody outside of the mesh, or refuses.
func (r *release) awaitPlaintext(t *testing.T, accepted bool) {
	t.Helper()
	r.nudge(t)
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	stage.Poll(t, 150*time.Second, func() error {
		for _, pod := range stage.Pods(t, r.namespace, "app=web") {
			answer, err := client.Get("http://" + pod.Status.PodIP + ":8080/healthz")
			if err == nil {
				answer.Body.Close()
			}
			if (err == nil) != accepted {
				return fmt.Errorf("%s answers plaintext: %v", pod.Name, err == nil)
			}
		}
		return nil
	})
}

// ledger is what came of the requests of all pods of the Deployment load, those that have ended among them.
type ledger struct {
	*release
	pods map[string]*caller
}

// caller is the log of one pod, whose last line says what came of its requests.
type caller struct {
	log  strings.Builder
	cmd  *exec.Cmd
	ends chan error
}

// begin counts from now on: what failed until all was there does not count.
func (l *ledger) begin(t *testing.T) {
	t.Helper()
	l.follow(t)
	for pod := range l.pods {
		l.take(t, pod)
	}
}

// follow follows the pods that are new.
func (l *ledger) follow(t *testing.T) (present map[string]bool) {
	t.Helper()
	present = map[string]bool{}
	for _, pod := range stage.Pods(t, l.namespace, "app=load") {
		if pod.DeletionTimestamp != nil {
			continue
		}
		present[pod.Name] = true
		if l.pods[pod.Name] != nil {
			continue
		}
		c := &caller{ends: make(chan error, 1)}
		ctx, cancel := context.WithCancel(context.Background())
		t.Cleanup(cancel)
		c.cmd = exec.CommandContext(ctx, "kubectl", "-n", l.namespace, "logs", "-f", pod.Name, "-c", "load")
		c.cmd.Stdout = &c.log
		if err := c.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { c.ends <- c.cmd.Wait() }()
		l.pods[pod.Name] = c
	}
	return present
}

// take is what a pod that runs has counted since the last time.
func (l *ledger) take(t *testing.T, pod string) (s load.Stats) {
	t.Helper()
	answer := stage.Call(t, l.namespace, pod, "load", "http://127.0.0.1:8090/reset")[0]
	if err := json.Unmarshal([]byte(answer.Body), &s); err != nil {
		t.Fatalf("%s: %v in %+v", pod, err, answer)
	}
	return s
}

// ended is what a pod that is gone said at its end.
func (c *caller) ended() (s load.Stats, err error) {
	select {
	case <-c.ends:
	case <-time.After(30 * time.Second):
		return s, errors.New("a caller that was replaced does not end")
	}
	lines := strings.Split(strings.TrimSpace(c.log.String()), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &s); err != nil {
		return s, fmt.Errorf("a caller that was replaced did not say what came of its requests: %w in %q", err, c.log.String())
	}
	return s, nil
}

// wantNoFailure waits until the pods of now have asked, and wants that no request failed, whoever sent it.
func (l *ledger) wantNoFailure(t *testing.T, name string) {
	t.Helper()
	present := l.follow(t)
	var sum load.Stats
	for pod, c := range l.pods {
		if !present[pod] {
			s, err := c.ended()
			if err != nil {
				t.Error(err)
			}
			sum.Add(s)
			delete(l.pods, pod)
			continue
		}
		var s load.Stats
		stage.Poll(t, 30*time.Second, func() error {
			s.Add(l.take(t, pod))
			if s.Requests < 20 {
				return fmt.Errorf("%s sent %d requests", pod, s.Requests)
			}
			return nil
		})
		sum.Add(s)
	}
	t.Logf("%s: %s", name, sum)
	if sum.Failed > 0 {
		t.Errorf("%s: requests failed", name)
	}
}
