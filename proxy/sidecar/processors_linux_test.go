package sidecar

import (
	"log/slog"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestProcessors: GOMAXPROCS is one more than Go's default, however often that is read, and follows it. Here the CPUs
// of this thread change; in a container it would be the CPU limit.
func TestProcessors(t *testing.T) {
	t.Cleanup(runtime.SetDefaultGOMAXPROCS)
	runtime.SetDefaultGOMAXPROCS()
	want := runtime.GOMAXPROCS(0) + 1
	for range 2 {
		if got := addProcessor(); got != want || runtime.GOMAXPROCS(0) != want {
			t.Errorf("GOMAXPROCS is %d, want %d", runtime.GOMAXPROCS(0), want)
		}
	}
	runtime.LockOSThread() // and never unlocks: the thread ends with the test's goroutine
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	if got := addProcessor(); got != 2 {
		t.Errorf("with one CPU GOMAXPROCS is %d, want 2", got)
	}
	if err := unix.SchedSetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOMAXPROCS", "1")
	runtime.SetDefaultGOMAXPROCS()
	followCPULimit(t.Context(), slog.New(slog.DiscardHandler)) // returns
	if got := runtime.GOMAXPROCS(0); got != want-1 {
		t.Errorf("GOMAXPROCS of the environment is changed to %d", got)
	}
}
