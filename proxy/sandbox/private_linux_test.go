package sandbox_test

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/meshless-dev/meshless/proxy/sandbox"
)

const (
	holderVariable = "MESHLESS_TEST_HOLDER" // "confined" or "open": holds a key, says so, and waits
	readerVariable = "MESHLESS_TEST_READER" // the process whose memory is to be read
	otherUser      = 65534
)

// TestMemoryIsPrivate: another process of the proxy's user, as a container of a pod that shares its processes may have
// one, cannot read the proxy's memory.
func TestMemoryIsPrivate(t *testing.T) {
	switch {
	case os.Getenv(holderVariable) != "":
		if os.Getenv(holderVariable) == "confined" {
			sandbox.Enter(t.TempDir(), slog.New(slog.DiscardHandler))
		}
		fmt.Println("HOLDING")
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	case os.Getenv(readerVariable) != "":
		f, err := os.Open("/proc/" + os.Getenv(readerVariable) + "/mem")
		if err != nil {
			fmt.Println("REFUSED", err)
			return
		}
		f.Close()
		fmt.Println("OPENED")
		return
	}
	needRoot(t)
	binary := publicCopy(t)
	for holder, want := range map[string]string{"open": "OPENED", "confined": "REFUSED"} {
		pid := hold(t, binary, holder)
		out, err := asOther(binary, again(t, "^TestMemoryIsPrivate$", fmt.Sprintf("%s=%d", readerVariable, pid))).CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, want %s\n%s", holder, err, want, out)
		}
	}
}

// hold starts a process that waits until the test ends.
func hold(t *testing.T, binary, holder string) int {
	t.Helper()
	c := asOther(binary, again(t, "^TestMemoryIsPrivate$", holderVariable+"="+holder))
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); _ = c.Wait() })
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if strings.Contains(lines.Text(), "HOLDING") {
			return c.Process.Pid
		}
	}
	t.Fatal("the holder ended")
	return 0
}

func asOther(binary string, c *exec.Cmd) *exec.Cmd {
	c.Path = binary
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: otherUser, Gid: otherUser}}
	c.Dir = filepath.Dir(binary)
	c.Env = append(c.Env, "TMPDIR="+c.Dir)
	return c
}

// publicCopy is this program where another user may run it.
func publicCopy(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "meshless-public-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(folder, "test")
	if err := os.WriteFile(binary, program, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(folder, 0o777); err != nil {
		t.Fatal(err)
	}
	return binary
}
