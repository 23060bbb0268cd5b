// Package cgroup makes control groups of the kernel for tests: containers that have little memory, or half a core. They
// are of version 1 or 2, whichever this machine has. Root can make them.
package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// root is where the hierarchies are mounted: in version 1 one for each controller, in version 2 one for all.
const root = "/sys/fs/cgroup"

// Group is a control group. The end of the test removes it, so its processes have to end before: whoever kills them
// does so in a Cleanup that is registered later.
type Group struct{ Folder string }

// Memory is a group of so many bytes. The error says why there is none.
func Memory(tb testing.TB, bytes int64) (*Group, error) {
	tb.Helper()
	limit := strconv.FormatInt(bytes, 10)
	return limited(tb, "memory", map[string]string{"memory.limit_in_bytes": limit}, map[string]string{"memory.max": limit})
}

// TCP is a group whose TCP sockets have so many bytes of the kernel's memory, which version 1 alone counts by itself.
func TCP(tb testing.TB, bytes int64) (*Group, error) {
	tb.Helper()
	return limited(tb, "memory", map[string]string{"memory.kmem.tcp.limit_in_bytes": strconv.FormatInt(bytes, 10)}, nil)
}

// HalfACore is a group that may compute half of the time.
func HalfACore(tb testing.TB) (*Group, error) {
	tb.Helper()
	return limited(tb, "cpu", map[string]string{"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"}, map[string]string{"cpu.max": "50000 100000"})
}

// limited makes a group, and writes the limits of the version that is there.
func limited(tb testing.TB, controller string, v1, v2 map[string]string) (*Group, error) {
	tb.Helper()
	parent, limits := filepath.Join(root, controller), v1
	if _, err := os.Stat(parent); err != nil {
		if parent, limits = root, v2; limits == nil {
			return nil, fmt.Errorf("no %s controller of cgroup v1: %w", controller, err)
		}
	}
	g := &Group{filepath.Join(parent, fmt.Sprintf("meshless-test-%d-%d", os.Getpid(), time.Now().UnixNano()))}
	if err := os.Mkdir(g.Folder, 0o755); err != nil {
		return nil, err
	}
	tb.Cleanup(func() { g.remove(tb) })
	for file, text := range limits {
		if err := g.write(file, text); err != nil {
			return nil, err
		}
	}
	return g, nil
}

func (g *Group) write(file, text string) error {
	return os.WriteFile(filepath.Join(g.Folder, file), []byte(text), 0o644)
}

// remove waits until the kernel has let go of the processes that were killed.
func (g *Group) remove(tb testing.TB) {
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err = os.Remove(g.Folder); err == nil {
			return
		}
	}
	tb.Errorf("the cgroup stays: %v", err)
}

// Add puts a process into the group. What it has allocated before does not count.
func (g *Group) Add(tb testing.TB, pid int) {
	tb.Helper()
	if err := g.write("cgroup.procs", strconv.Itoa(pid)); err != nil {
		tb.Fatal(err)
	}
}

// Most is the number in the first of these files that is there, such as the most memory that was used.
func (g *Group) Most(tb testing.TB, files ...string) int64 {
	tb.Helper()
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(g.Folder, file))
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err != nil {
			tb.Error(err)
		}
		return n
	}
	tb.Errorf("the cgroup has none of %v", files)
	return 0
}

// MostMemory is the most memory that the group has used, in bytes.
func (g *Group) MostMemory(tb testing.TB) int64 {
	tb.Helper()
	return g.Most(tb, "memory.max_usage_in_bytes", "memory.peak")
}
