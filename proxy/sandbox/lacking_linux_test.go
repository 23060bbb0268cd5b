//go:build amd64 || arm64

package sandbox

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const lackingVariable = "MESHLESS_TEST_LACKING"

// lackings are kernels and container runtimes without a feature, played by a filter that answers its system call.
var lackings = map[string]struct {
	call    uint32
	errno   unix.Errno
	missing string
}{
	"no Landlock in the kernel":     {unix.SYS_LANDLOCK_CREATE_RULESET, unix.ENOSYS, "landlock: this kernel has none"},
	"Landlock is off":               {unix.SYS_LANDLOCK_CREATE_RULESET, unix.EOPNOTSUPP, "lsm="},
	"runtime forbids Landlock":      {unix.SYS_LANDLOCK_CREATE_RULESET, unix.EPERM, "profile"},
	"runtime forbids its last call": {unix.SYS_LANDLOCK_RESTRICT_SELF, unix.EPERM, "landlock_restrict_self"},
	"no seccomp":                    {unix.SYS_SECCOMP, unix.ENOSYS, "seccomp: the filter is refused"},
}

// TestEnterLacking wants a start with what there is, and a report of what there is not.
func TestEnterLacking(t *testing.T) {
	if name := os.Getenv(lackingVariable); name != "" {
		enterLacking(t, name)
		return
	}
	for name := range lackings {
		t.Run(name, func(t *testing.T) {
			c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestEnterLacking$", "-test.v", "-test.timeout=60s")
			c.Env = append(os.Environ(), lackingVariable+"="+name)
			if out, _ := c.CombinedOutput(); !strings.Contains(string(out), "--- PASS: TestEnterLacking ") {
				t.Errorf("in its own process:\n%s", out)
			}
		})
	}
}

func enterLacking(t *testing.T, name string) {
	l := lackings[name]
	raw, err := bpf.Assemble(slices.Concat([]bpf.Instruction{load(offsetNumber)},
		on(l.call, bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(l.errno)}), []bpf.Instruction{allow}))
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	if err := errors.Join(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), loadFilter(raw, unix.SECCOMP_FILTER_FLAG_TSYNC)); err != nil {
		t.Fatal(err)
	}
	runtime.UnlockOSThread()
	r := Enter(os.TempDir(), slog.New(slog.DiscardHandler))
	if len(r.Missing) != 1 || !strings.Contains(r.Missing[0], l.missing) {
		t.Errorf("missing is %q, want %q", r.Missing, l.missing)
	}
	_, here := ll.LandlockGetABIVersion()
	if noSeccomp := l.call == unix.SYS_SECCOMP; r.Seccomp == noSeccomp || (r.Landlock > 0) != (noSeccomp && here == nil) {
		t.Errorf("report is %+v", r)
	}
}

func TestNoDirectory(t *testing.T) {
	if _, err := ll.LandlockGetABIVersion(); err != nil {
		t.Skipf("needs Landlock: %v", err)
	}
	const missing = "/no/such/mount"
	if abi, err := restrictFiles(missing, false); abi != 0 || err == nil || !strings.Contains(err.Error(), missing) {
		// it restricts nothing
		t.Errorf("got %d, %v", abi, err)
	}
}

func TestScopes(t *testing.T) {
	for errata, want := range map[int]int{0: ll.ScopeAbstractUnixSocket, 1: ll.ScopeAbstractUnixSocket, 2: ll.ScopeAbstractUnixSocket | ll.ScopeSignal, 7: ll.ScopeAbstractUnixSocket | ll.ScopeSignal} {
		if got := int(scopes(errata)); got != want {
			t.Errorf("errata %#x: %#x, want %#x", errata, got, want)
		}
	}
}
