//go:build e2e && linux

package chain

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/cluster/kube"
)

// Callers are the Deployments that ask, in the order of the chain.
var Callers = []string{"client", "front", "middle", "guest"}

// Marker is in every request that they make.
const Marker = "the-marker-of-the-chain"

// Stats is what came of a Deployment's requests, half of them on kept connections.
type Stats struct {
	Requests int            `json:"requests"`
	Failed   int            `json:"failed"`
	Reopened int            `json:"reopened"` // kept connections that ended; each request was tried once more
	Errors   map[string]int `json:"errors"`
	Slowest  int64          `json:"slowest_ms"`
}

func (s Stats) String() string {
	text := fmt.Sprintf("%d requests, %d failed, %d kept connections ended, slowest %d ms", s.Requests, s.Failed, s.Reopened, s.Slowest)
	for _, e := range slices.Sorted(maps.Keys(s.Errors)) {
		text += fmt.Sprintf("\n\t%d × %s", s.Errors[e], e)
	}
	return text
}

// Add adds what another pod counted.
func (s *Stats) Add(other Stats) {
	s.Requests, s.Failed, s.Reopened, s.Slowest = s.Requests+other.Requests, s.Failed+other.Failed, s.Reopened+other.Reopened, max(s.Slowest, other.Slowest)
	if s.Errors == nil {
		s.Errors = map[string]int{}
	}
	for text, n := range other.Errors {
		s.Errors[text] += n
	}
}

// TakeStats are the stats since they were taken last, by caller.
func (a *App) TakeStats(t *testing.T) map[string]Stats {
	t.Helper()
	all := map[string]Stats{}
	for _, p := range a.Of(Callers...) {
		text, err := a.forwards.get(p.Name, CallerPort, "/reset")
		if err != nil {
			t.Fatal(err)
		}
		var s Stats
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatalf("%s: %v in %s", p.Name, err, text)
		}
		sum := all[p.App]
		sum.Add(s)
		all[p.App] = sum
	}
	return all
}

// AwaitRequests waits until each caller has made n requests since the stats were taken last, whatever came of them.
func (a *App) AwaitRequests(t *testing.T, n int, callers ...string) {
	t.Helper()
	for _, p := range a.Of(callers...) {
		kube.Poll(t, 30*time.Second, func() error {
			var s Stats
			text, err := a.forwards.get(p.Name, CallerPort, "/stats")
			if err == nil {
				err = json.Unmarshal(text, &s)
			}
			if err == nil && s.Requests < n {
				err = fmt.Errorf("%s: only %d requests, want %d", p.Name, s.Requests, n)
			}
			return err
		})
	}
}

// Describe is the stats as text, in the order of the chain.
func Describe(all map[string]Stats) string {
	var lines []string
	for _, caller := range Callers {
		if s, ok := all[caller]; ok {
			lines = append(lines, caller+": "+s.String())
		}
	}
	return strings.Join(lines, "\n")
}
