package private

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Memory closes the process's memory, with the keys in it, to other processes of the same user, which /proc and
// ptrace(2) open otherwise. The files of /proc/PID that show memory, environment and descriptors are root's then. There
// are no core dumps either; programs that the process starts write none, too, but are otherwise as ever.
// CAP_SYS_PTRACE is beyond it.
func Memory() error {
	return errors.Join(
		os.NewSyscallError("prctl PR_SET_DUMPABLE", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)),
		os.NewSyscallError("setrlimit RLIMIT_CORE", unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})))
}

// Environment overwrites the values of variables where the kernel has put them at the start of the process, and where
// /proc/PID/environ shows them for as long as it lives: neither os.Unsetenv nor os.Clearenv gets there. What os.Getenv
// returns stays, since the runtime has copied it.
func Environment(names ...string) error {
	block, err := environment()
	if err != nil {
		return fmt.Errorf("the environment that the process was started with cannot be found: %w", err)
	}
	for len(block) > 0 {
		variable, rest, _ := bytes.Cut(block, []byte{0})
		for _, name := range names {
			if bytes.HasPrefix(variable, []byte(name+"=")) {
				clear(variable[len(name)+1:])
			}
		}
		block = rest
	}
	return nil
}

// The fields env_start and env_end of /proc/PID/stat (proc_pid_stat(5)), counted from the third, which is the first
// behind the name of the program.
const (
	envStart = 50 - 3
	envEnd   = 51 - 3
)

// environment is the block of memory that the kernel has put the environment into. Go has no pointer to it.
func environment() ([]byte, error) {
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // a name may hold blanks
	if len(fields) <= envEnd {
		return nil, errors.New("/proc/self/stat lacks env_end")
	}
	start, err1 := strconv.ParseUint(fields[envStart], 10, 64)
	end, err2 := strconv.ParseUint(fields[envEnd], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if start == 0 || end < start {
		return nil, errors.New("/proc/self/stat does not say env_start")
	}
	address := uintptr(start)
	return unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&address))), end-start), nil
}

// Descriptors closes the descriptors that the process was given beside standard input and output to the programs that
// it starts: a shell's `3<FILE` else hands the file on to all of them.
func Descriptors() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if n, err := strconv.Atoi(entry.Name()); err == nil && n > 2 {
			unix.CloseOnExec(n)
		}
	}
	return nil
}
