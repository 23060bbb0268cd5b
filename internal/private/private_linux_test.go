package private_test

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/internal/private"
)

const variable = "TEST_PRIVATE"

// again runs a test in a process of its own, with an environment of its own.
func again(t *testing.T, files []*os.File, env ...string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	c.Env, c.ExtraFiles = env, files
	if out, err := c.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()+" ") {
		t.Fatalf("in its own process: %v\n%s", err, out)
	}
}

// TestEnvironment: the named variables are gone from what the kernel shows, all others stay, and so does what Go says.
func TestEnvironment(t *testing.T) {
	if os.Getenv(variable) == "" {
		again(t, nil, "A=1", variable+"=secret", variable+"_FILE=kept", "B=", variable+"=secret twice", "LAST"+variable+"=kept, too", variable+"=secret at the end")
		return
	}
	before, err := os.ReadFile("/proc/self/environ")
	if err != nil {
		t.Fatal(err)
	}
	said := os.Getenv(variable)
	if err := private.Environment(variable, "NOT_SET"); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile("/proc/self/environ")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(before, []byte("secret")) || bytes.Contains(after, []byte("secret")) || len(before) != len(after) {
		t.Errorf("before %q, after %q", before, after)
	}
	for _, kept := range []string{"A=1\x00", variable + "_FILE=kept\x00", "B=\x00", "LAST" + variable + "=kept, too\x00", variable + "=\x00"} {
		if !bytes.Contains(after, []byte(kept)) {
			t.Errorf("%q is not in %q", kept, after)
		}
	}
	if os.Getenv(variable) != said {
		t.Errorf("Getenv said %q, says %q", said, os.Getenv(variable))
	}
}

// TestDescriptors: what the process was given is not handed on.
func TestDescriptors(t *testing.T) {
	const given = 3
	if os.Getenv(variable) == "" {
		f, err := os.Open(os.Args[0])
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		again(t, []*os.File{f}, variable+"=1")
		return
	}
	flags := func() int {
		n, err := unix.FcntlInt(given, unix.F_GETFD, 0)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if flags()&unix.FD_CLOEXEC != 0 {
		t.Fatal("the control: the descriptor is closed at exec before")
	}
	if err := private.Descriptors(); err != nil {
		t.Fatal(err)
	}
	if flags()&unix.FD_CLOEXEC == 0 {
		t.Error("descriptor " + strconv.Itoa(given) + " is handed on")
	}
}

// TestMemory: the process is not dumpable, and may write no core.
func TestMemory(t *testing.T) {
	if os.Getenv(variable) == "" {
		again(t, nil, variable+"=1")
		return
	}
	if err := private.Memory(); err != nil {
		t.Fatal(err)
	}
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		t.Fatal(err)
	}
	if err != nil || dumpable != 0 || limit.Cur != 0 || limit.Max != 0 {
		t.Errorf("dumpable %d, %v; core %+v", dumpable, err, limit)
	}
}
