package cli

import (
	"bytes"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/test/scale/manifests"
)

// bounds is what a workload may cost, with its Service, its ConfigMap and its Secret, in a package of 10 namespaces.
// Allocations do not depend on the machine or on its load, so they are what CI can hold; times are measured by
// test/scale. Each bound is a tenth to a fifth above what was measured with Go 1.26 (the test logs it with -v): room
// for other versions of Go and of the libraries, and none for one more copy of the package: a copy of its YAML nodes is
// a third of live.
type bounds struct {
	allocations uint64
	allocated   uint64 // bytes
	live        uint64 // bytes that are in use when a render begins to write its output
}

// TestCostOfWorkload bounds what the function allocates and holds for a workload, and that it grows with the number of
// workloads and no faster.
func TestCostOfWorkload(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	if underRace {
		t.Skip("the race detector allocates on its own; the tests without it hold this")
	}
	const few, many, namespaces = 100, 200, 10
	for name, c := range map[string]struct {
		input func(n int) string
		max   bounds
	}{
		"first render": {func(n int) string { return resourceLists(t, n, namespaces) }, bounds{6600, 940 << 10, 60 << 10}},
		"nothing due":  {func(n int) string { return functionOf(t, resourceLists(t, n, namespaces)) }, bounds{8050, 990 << 10, 58 << 10}},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := costOf(t, c.input(few)), costOf(t, c.input(many))
			t.Logf("of %d workloads each: %d allocations, %d KiB allocated, %d KiB live", many, b.allocations/many, b.allocated/many>>10, b.live/many>>10)
			for what, x := range map[string]struct{ few, many, max uint64 }{
				"allocations": {a.allocations, b.allocations, c.max.allocations}, "bytes allocated": {a.allocated, b.allocated, c.max.allocated}, "bytes live": {a.live, b.live, c.max.live},
			} {
				if x.many > x.max*many {
					t.Errorf("%d %s for each workload, want at most %d", x.many/many, what, x.max)
				}
				if x.many*10 > x.few*22 { // a square would be 4 times as many
					t.Errorf("%d %s of %d workloads, and %d of %d: grows faster than the package", x.few, what, few, x.many, many)
				}
			}
		})
	}
}

// costOf is what one run of the function costs.
func costOf(t *testing.T, input string) bounds {
	t.Helper()
	functionOf(t, input) // what is made once, such as the tables of a library, is not the workloads'
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	out := &firstWrite{}
	functionTo(t, out, input)
	runtime.ReadMemStats(&after)
	return bounds{after.Mallocs - before.Mallocs, after.TotalAlloc - before.TotalAlloc, out.live - before.HeapAlloc}
}

// firstWrite notes what is live when the first part of the output comes.
type firstWrite struct{ live uint64 }

func (w *firstWrite) Write(p []byte) (int, error) {
	if w.live == 0 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		w.live = m.HeapAlloc
	}
	return len(p), nil
}

func resourceLists(t *testing.T, n, namespaces int) string {
	t.Helper()
	var out strings.Builder
	if err := manifests.WriteResourceList(&out, n, namespaces); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func functionOf(t *testing.T, input string) string {
	t.Helper()
	var out strings.Builder
	functionTo(t, &out, input)
	return out.String()
}

func functionTo(t *testing.T, out io.Writer, input string) {
	t.Helper()
	var complaint bytes.Buffer
	if Main(nil, strings.NewReader(input), out, &complaint) != 0 {
		t.Fatal(complaint.String())
	}
}
