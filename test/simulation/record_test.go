package simulation

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// kind is what went wrong. A handshake that fails has the reason of the verifier (svid.Reason) as its kind.
type kind string

// What the simulation looks for beside handshakes that fail.
const (
	refusedOwn      kind = "a pod refuses its own new files"
	cannotStart     kind = "a pod cannot start"
	acceptedRevoked kind = "a revoked key is accepted"
	outlives        kind = "a leaf outlives its authority"
	lostAuthority   kind = "the bundle lost the authority of a live leaf"
	unannounced     kind = "an authority signs that was not published long enough"
	badCommit       kind = "a leaf does not verify under the bundles of its own commit"
	renderFailed    kind = "a render failed"
	notQuiet        kind = "a render with nothing due changed something"
)

// record is what a run found, and its figures.
type record struct {
	events, renders, merges, reverts, revocations, promotions, replacements, leaves int

	verifications int // calls of svid.Bundle.Verify for a handshake
	handshakes    int // ordered pairs of pods that they stand for
	maxPods       int

	failures map[kind]int
	excused  map[string]int
	examples map[kind]string // the first of each
}

func newRecord() record {
	return record{failures: map[kind]int{}, excused: map[string]int{}, examples: map[kind]string{}}
}

// fail records a failure at a time.
func (r *record) fail(k kind, now time.Time, format string, args ...any) {
	if r.failures[k]++; r.failures[k] == 1 {
		r.examples[k] = fmt.Sprintf("%s (day %.2f): %s", now.UTC().Format(time.RFC3339), now.Sub(start).Hours()/24, fmt.Sprintf(format, args...))
	}
}

func (r *record) excuse(why string) { r.excused[why]++ }

func (r *record) figures() string {
	return fmt.Sprintf("%d events, %d renders, %d merges (%d reverts), %d leaves, %d authorities promoted, %d revocations, up to %d pods; %d verifications that stand for %d handshakes",
		r.events, r.renders, r.merges, r.reverts, r.leaves, r.promotions, r.revocations, r.maxPods, r.verifications, r.handshakes)
}

// text lists failures with an example each, and what was excused.
func (r *record) text() string {
	var out strings.Builder
	for _, k := range slices.Sorted(maps.Keys(r.failures)) {
		fmt.Fprintf(&out, "%6d × %s; first at %s\n", r.failures[k], k, r.examples[k])
	}
	for _, why := range slices.Sorted(maps.Keys(r.excused)) {
		fmt.Fprintf(&out, "%6d excused: %s\n", r.excused[why], why)
	}
	return out.String()
}
