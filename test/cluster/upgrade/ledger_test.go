//go:build e2e && linux

package upgrade

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/app/load"
	"github.com/meshless-dev/meshless/test/cluster/stage"
)

// ledgers are what came of the requests of all callers, those among them that ended: a caller prints its stats at its
// end.
type ledgers struct {
	followed []*followed
	context  context.Context // of the whole test
}

// followed is the log of one caller.
type followed struct {
	pod   string
	log   bytes.Buffer // read it after ended
	ended chan struct{}
}

// stats asks a caller that lives; path is /stats or /reset.
func stats(t *testing.T, pod, path string) (s load.Stats, err error) {
	t.Helper()
	a := stage.Call(t, namespace, pod, "caller", fmt.Sprintf("http://127.0.0.1:%d%s", stage.CallerPort, path))[0]
	if a.Error != "" {
		return s, errors.New(a.Error)
	}
	return s, json.Unmarshal([]byte(a.Body), &s)
}

// callers are the pods that ask and do not end.
func callers(t *testing.T) (names []string) {
	t.Helper()
	for _, pod := range stage.Pods(t, namespace, "part-of=chain,app!=back") {
		if pod.DeletionTimestamp == nil {
			names = append(names, pod.Name)
		}
	}
	return names
}

// settle waits until nothing fails for a second, lets all count from zero, and follows them.
func (l *ledgers) settle(t *testing.T) {
	t.Helper()
	for _, pod := range callers(t) {
		stage.Eventually(t, func() error {
			if _, err := stats(t, pod, "/reset"); err != nil {
				return err
			}
			time.Sleep(time.Second)
			s, err := stats(t, pod, "/stats")
			if err == nil && (s.Failed > 0 || s.Requests == 0) {
				err = errors.New(pod + ": " + s.String())
			}
			return err
		})
	}
	l.follow(t)
}

// follow starts to read the logs of callers that are new.
func (l *ledgers) follow(t *testing.T) {
	t.Helper()
	known := map[string]bool{}
	for _, f := range l.followed {
		known[f.pod] = true
	}
	for _, pod := range callers(t) {
		if known[pod] {
			continue
		}
		f := &followed{pod: pod, ended: make(chan struct{})}
		cmd := exec.CommandContext(l.context, "kubectl", "-n", namespace, "logs", "-f", pod, "-c", "caller")
		cmd.Stdout = &f.log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { _ = cmd.Wait(); close(f.ended) }() // it ends with the container
		l.followed = append(l.followed, f)
	}
}

// await waits until every caller has sent n more requests.
func (l *ledgers) await(t *testing.T, n int) {
	t.Helper()
	before := map[string]int{}
	for _, pod := range callers(t) {
		s, err := stats(t, pod, "/stats")
		if err != nil {
			t.Fatal(err)
		}
		before[pod] = s.Requests
	}
	for pod, sent := range before {
		stage.Eventually(t, func() error {
			s, err := stats(t, pod, "/stats")
			if err == nil && s.Requests < sent+n {
				err = fmt.Errorf("%s has sent %d requests since", pod, s.Requests-sent)
			}
			return err
		})
	}
}

// wantNoFailure adds up all ledgers.
func (l *ledgers) wantNoFailure(t *testing.T) {
	t.Helper()
	alive := map[string]bool{}
	for _, pod := range callers(t) {
		alive[pod] = true
	}
	var all load.Stats
	for _, f := range l.followed {
		s, err := f.stats(t, alive[f.pod])
		if err != nil {
			t.Errorf("the ledger of %s: %v", f.pod, err)
			continue
		}
		if s.Failed > 0 {
			t.Errorf("%s: %s", f.pod, s)
		}
		all.Add(s)
	}
	t.Logf("of %d callers: %s", len(l.followed), all)
}

func (f *followed) stats(t *testing.T, alive bool) (s load.Stats, err error) {
	t.Helper()
	if alive {
		return stats(t, f.pod, "/stats")
	}
	select {
	case <-f.ended:
	case <-time.After(30 * time.Second):
		return s, errors.New("the log does not end")
	}
	lines := bytes.Split(bytes.TrimSpace(f.log.Bytes()), []byte("\n"))
	return s, json.Unmarshal(lines[len(lines)-1], &s)
}
