package sandbox_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/proxy/budget"
	"github.com/meshless-dev/meshless/proxy/sandbox"
)

// hierarchies are a container with a limit of 300 MiB as cgroup v1 and v2 show it: the files of /proc/self, and those
// of the cgroup.
var hierarchies = map[string]struct{ cgroup, mountinfo, files map[string]string }{
	"v1": {
		cgroup:    map[string]string{"cgroup": "4:memory:/\n"},
		mountinfo: map[string]string{"mountinfo": "30 25 0:26 / CGROUP ro,relatime - cgroup cgroup rw,memory\n"},
		files:     map[string]string{"memory.limit_in_bytes": "314572800\n", "memory.stat": "hierarchical_memory_limit 314572800\n"},
	},
	"v2": {
		cgroup:    map[string]string{"cgroup": "0::/\n"},
		mountinfo: map[string]string{"mountinfo": "30 25 0:26 / CGROUP ro,relatime - cgroup2 cgroup rw\n"},
		files:     map[string]string{"memory.max": "314572800\n"},
	},
}

// TestLimitMemoryOfContainer reads a limit through the files in which the kernel shows it. It runs itself again with a
// /proc of its own.
func TestLimitMemoryOfContainer(t *testing.T) {
	if proc := os.Getenv("MESHLESS_TEST_PROC"); proc != "" {
		if err := mountOver("/proc", proc); err != nil {
			t.Fatal(err)
		}
		const want = 300 << 20
		r := sandbox.Measure(slog.New(slog.DiscardHandler))
		if r.Memory != want || r.Machine <= want || r.Descriptors == 0 {
			t.Errorf("measured %+v, want %d of memory", r, want)
		}
		if got := sandbox.LimitMemory(budget.For(r)); got == 0 || got > want/10*9 || debug.SetMemoryLimit(-1) != got {
			t.Errorf("set %d, in force %d", got, debug.SetMemoryLimit(-1))
		}
		return
	}
	needRoot(t)
	for version, h := range hierarchies {
		t.Run(version, func(t *testing.T) {
			dir := t.TempDir()
			cgroup, self := filepath.Join(dir, "cgroup"), filepath.Join(dir, "proc", "self")
			for folder, files := range map[string][]map[string]string{cgroup: {h.files}, self: {h.cgroup, h.mountinfo}} {
				if err := os.MkdirAll(folder, 0o755); err != nil {
					t.Fatal(err)
				}
				for _, set := range files {
					for name, text := range set {
						if err := os.WriteFile(filepath.Join(folder, name), []byte(strings.ReplaceAll(text, "CGROUP", cgroup)), 0o644); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			c := again(t, "^TestLimitMemoryOfContainer$", "MESHLESS_TEST_PROC="+filepath.Join(dir, "proc"), "GOMEMLIMIT=")
			c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
			passes(t, c, "TestLimitMemoryOfContainer")
		})
	}
}

// mountOver shows what is at source at target, in the mount namespace of this process alone.
func mountOver(target, source string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount(source, target, "", unix.MS_BIND, "")
}
