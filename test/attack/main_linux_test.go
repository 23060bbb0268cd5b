package attack

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

// apartVariable is set in a process that has a network of its own.
const apartVariable = "MESHLESS_TEST_APART"

// TestMain runs the tests of root in a network of their own. Where a rule of this machine asks for the state of
// connections, as Docker's do, the kernel tracks each one for up to two minutes after its end. A few attacks fill that
// table. Then the kernel drops what honest members open, for everybody on this machine.
func TestMain(m *testing.M) {
	switch {
	case os.Getuid() != 0:
		os.Exit(m.Run())
	case os.Getenv(apartVariable) == "":
		os.Exit(apart())
	}
	if err := loopbackUp(); err != nil {
		fmt.Fprintln(os.Stderr, "a network for the tests:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// apart runs this test binary once more, with the same arguments, in another network. It returns its exit code.
func apart() int {
	runtime.LockOSThread() // the other one dies with this thread
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), apartVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if failed := new(exec.ExitError); err != nil && !errors.As(err, &failed) {
		fmt.Fprintln(os.Stderr, "a network for the tests:", err)
		return 1
	}
	if code := cmd.ProcessState.ExitCode(); code >= 0 {
		return code
	}
	return 1 // by a signal
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}
