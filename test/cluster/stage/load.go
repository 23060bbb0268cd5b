//go:build linux

package stage

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/app/load"
)

// Callers are the Deployments of the chain that ask, in the order of the chain.
var Callers = []string{"client", "front", "middle", "guest"}

// Everyone is Callers, and the second package's.
var Everyone = append(slices.Clone(Callers), Visitor)

// Marker is in every request that they make.
const Marker = "the-marker-of-the-chain"

// Outsider is a pod that asks without being in the mesh, so in plaintext, and tells its stats as callers do. It is no
// part of the chain, so no rollout replaces it.
func Outsider(rate int, urls ...string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: outsider, labels: {app: outsider}}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  containers:
    - {name: caller, image: "meshless-test/app:latest", imagePullPolicy: IfNotPresent, args: [load, --rate, "%d", --keepalive, --port, "%d", "%s"]}
`, rate, CallerPort, strings.Join(urls, `", "`))
}

// TakeStats are the stats since they were taken last, by caller.
func (c *Chain) TakeStats(t *testing.T) map[string]load.Stats {
	t.Helper()
	all := map[string]load.Stats{}
	for _, p := range c.Of(Everyone...) {
		sum := all[p.App]
		sum.Add(c.TakeStatsOf(t, p.Name))
		all[p.App] = sum
	}
	if c.visitor != nil {
		maps.Copy(all, c.visitor.TakeStats(t))
	}
	return all
}

// TakeStatsOf are the stats of one pod's load since they were taken last.
func (c *Chain) TakeStatsOf(t *testing.T, pod string) (s load.Stats) {
	t.Helper()
	text, err := c.forwards.get(pod, CallerPort, "/reset")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatalf("%s: %v in %s", pod, err, text)
	}
	return s
}

// AwaitRequests waits until each caller has made n requests since the stats were taken last, whatever came of them.
func (c *Chain) AwaitRequests(t *testing.T, n int, callers ...string) {
	t.Helper()
	for _, p := range c.Of(callers...) {
		Poll(t, 30*time.Second, func() error {
			var s load.Stats
			text, err := c.forwards.get(p.Name, CallerPort, "/stats")
			if err == nil {
				err = json.Unmarshal(text, &s)
			}
			if err == nil && s.Requests < n {
				err = fmt.Errorf("%s: only %d requests, want %d", p.Name, s.Requests, n)
			}
			return err
		})
	}
	if c.visitor != nil && (len(callers) == 0 || slices.Contains(callers, Visitor)) {
		c.visitor.AwaitRequests(t, n, Visitor)
	}
}

// Describe is the stats as text, in the order of the chain.
func Describe(all map[string]load.Stats) string {
	var lines []string
	for _, caller := range Everyone {
		if s, ok := all[caller]; ok {
			lines = append(lines, caller+": "+s.String())
		}
	}
	return strings.Join(lines, "\n")
}

// LoadStats asks the pod load of the namespace.
func LoadStats(t *testing.T, namespace string) load.Stats { return loadAnswer(t, namespace, "/stats") }

// ResetLoad lets the pod load count from zero: what failed until all servers were up is not what a test is about.
func ResetLoad(t *testing.T, namespace string) { loadAnswer(t, namespace, "/reset") }

func loadAnswer(t *testing.T, namespace, path string) (s load.Stats) {
	t.Helper()
	a := Call(t, namespace, "load", "load", fmt.Sprintf("http://127.0.0.1:%d%s", CallerPort, path))[0]
	if a.Error != "" {
		t.Fatalf("pod load of %s: %s", namespace, a.Error)
	}
	if err := json.Unmarshal([]byte(a.Body), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// WantNoFailure waits for some more requests and wants none to have failed since ResetLoad.
func WantNoFailure(t *testing.T, namespace string) {
	t.Helper()
	if s := finish(t, namespace); s.Failed > 0 {
		t.Errorf("%s: %s", namespace, s)
	}
}

// WantNoMoreFailures is WantNoFailure beside a control, the same load without a mesh that met the same: what fails
// there as well is of the machine or the manifest.
func WantNoMoreFailures(t *testing.T, namespace, control string) {
	t.Helper()
	c, s := finish(t, control), finish(t, namespace)
	if s.Failed > c.Failed {
		t.Errorf("%s: %s\nwithout a mesh: %s", namespace, s, c)
	}
}

// finish is what a load came to after some more requests.
func finish(t *testing.T, namespace string) (s load.Stats) {
	t.Helper()
	before := LoadStats(t, namespace).Requests
	Eventually(t, func() error {
		if s = LoadStats(t, namespace); s.Requests < before+20 {
			return fmt.Errorf("the load of %s has sent %d requests since", namespace, s.Requests-before)
		}
		return nil
	})
	t.Logf("%s: %s", namespace, s)
	return s
}
