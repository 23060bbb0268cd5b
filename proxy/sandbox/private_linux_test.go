package sandbox_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/proxy/sandbox"
)

const (
	holderVariable = "MESHLESS_TEST_HOLDER" // "confined" or "open": holds a key, says so, and waits
	readerVariable = "MESHLESS_TEST_READER" // the process whose memory is to be read
	otherUser      = 65534
)

// TestMemoryIsPrivate: another process of the proxy's user, as a container of a pod that shares its processes may have
// one, gets at the proxy's memory by none of the ways that the kernel has.
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
		pid, err := strconv.Atoi(os.Getenv(readerVariable))
		if err != nil {
			t.Fatal(err)
		}
		for name, reach := range reaches {
			fmt.Println(name, map[bool]string{true: "OPENED", false: "REFUSED"}[reach(pid) == nil])
		}
		return
	}
	needRoot(t)
	binary := publicCopy(t)
	for holder, want := range map[string]string{"open": "OPENED", "confined": "REFUSED"} {
		pid := hold(t, binary, holder).Process.Pid
		out, err := asOther(binary, again(t, "^TestMemoryIsPrivate$", fmt.Sprintf("%s=%d", readerVariable, pid))).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", holder, err, out)
		}
		for name := range reaches {
			if !strings.Contains(string(out), name+" "+want+"\n") {
				t.Errorf("%s: %s: want %s\n%s", holder, name, want, out)
			}
		}
	}
}

// reaches are the ways into another process.
var reaches = map[string]func(pid int) error{
	"mem":         opens("mem"),
	"environ":     opens("environ"),
	"maps":        opens("maps"),
	"auxv":        opens("auxv"),
	"fd":          opens("fd"), // the listeners and files
	"root folder": opens("root/etc/passwd"),
	"process_vm_readv": func(pid int) error {
		// of a page that is not there: who may gets EFAULT, who may not EPERM
		local, remote := unix.Iovec{Base: new(byte), Len: 1}, unix.RemoteIovec{Base: 1, Len: 1}
		if _, err := unix.ProcessVMReadv(pid, []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0); errors.Is(err, fs.ErrPermission) {
			return err
		}
		return nil
	},
	"pidfd_getfd": func(pid int) error {
		process, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return nil // which the control would show
		}
		defer unix.Close(process)
		fd, err := unix.PidfdGetfd(process, 0, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	},
	"ptrace": func(pid int) error { return unix.PtraceSeize(pid) }, // which stops nobody, and ends with this process
}

// opens opens a file of a process in /proc; of /proc/PID/maps and the like the open alone says nothing, so it reads.
func opens(file string) func(int) error {
	return func(pid int) error {
		f, err := os.Open(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			return err
		}
		defer f.Close()
		switch file {
		case "maps", "environ", "auxv":
			if n, err := f.Read(make([]byte, 1)); err != nil || n == 0 {
				return fmt.Errorf("%d bytes, %w", n, err)
			}
		}
		return nil
	}
}

// TestNoCore: a proxy that is killed by a signal which dumps writes no core, even where the limit was without end.
func TestNoCore(t *testing.T) {
	if os.Getenv(holderVariable) != "" {
		TestMemoryIsPrivate(t)
		return
	}
	needRoot(t)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_CORE, &old) }()
	binary := publicCopy(t)
	for holder, want := range map[string]bool{"open": true, "confined": false} {
		c := hold(t, binary, holder)
		// Go's handler ends the process by SIGABRT with GOTRACEBACK=crash
		if err := c.Process.Signal(syscall.SIGQUIT); err != nil {
			t.Fatal(err)
		}
		_ = c.Wait()
		status := c.ProcessState.Sys().(syscall.WaitStatus)
		if !status.Signaled() || status.CoreDump() != want {
			t.Errorf("%s: %v, core %v, want %v", holder, c.ProcessState, status.CoreDump(), want)
		}
	}
}

// hold starts a process that waits until the test ends.
func hold(t *testing.T, binary, holder string) *exec.Cmd {
	t.Helper()
	c := asOther(binary, again(t, "^"+t.Name()+"$", holderVariable+"="+holder, "GOTRACEBACK=crash"))
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
			return c
		}
	}
	t.Fatal("the holder ended")
	return nil
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
