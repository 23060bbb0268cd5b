//go:build linux

package stage

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/app/load"
)

// Followed are the logs of callers, which say at their end what came of their requests.
type Followed struct {
	commands []*exec.Cmd
	logs     []*bytes.Buffer
}

// Follow follows the callers of some Deployments that are about to be replaced.
func Follow(t *testing.T, c *Chain, callers ...string) *Followed {
	t.Helper()
	f := &Followed{}
	for _, p := range c.Of(callers...) {
		log := &bytes.Buffer{}
		cmd := exec.CommandContext(t.Context(), "kubectl", "-n", c.Namespace, "logs", "-f", p.Name, "-c", "caller")
		cmd.Stdout = log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		f.commands, f.logs = append(f.commands, cmd), append(f.logs, log)
	}
	return f
}

// Stats waits for the end of the callers, which are gone by now, and adds up.
func (f *Followed) Stats(t *testing.T) load.Stats {
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
