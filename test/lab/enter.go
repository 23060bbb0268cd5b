//go:build linux

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Enter must be the first statement of TestMain. In a process that the lab started it becomes the container and does
// not return.
func Enter() {
	encoded, ok := os.LookupEnv(enterVariable)
	if !ok {
		return
	}
	runtime.LockOSThread() // everything below concerns this one thread, which execve makes the whole process
	var p process
	err := json.Unmarshal([]byte(encoded), &p)
	if err == nil {
		err = p.become()
	}
	fmt.Fprintln(os.Stderr, "lab: enter container:", err)
	os.Exit(127)
}

// become replaces this process by the container's; it returns only errors. The network namespace is descriptor 3.
func (p *process) become() error {
	if err := unix.Setns(3, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	if err := p.mountRoot(); err != nil {
		return err
	}
	if err := p.dropPrivileges(); err != nil {
		return err
	}
	// The lab's starting thread is the parent. This comes after the change of user, which clears it.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("parent-death signal: %w", err)
	}
	unix.CloseOnExec(3)
	return fmt.Errorf("exec %s: %w", p.Argv[0], unix.Exec(p.Argv[0], p.Argv, p.Env))
}

// mountRoot makes a file system that holds what an image FROM scratch, the kubelet and the runtime put there, and
// nothing else.
func (p *process) mountRoot() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	if err := unix.Mount("tmpfs", p.Root, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	for target, source := range p.Binds {
		if err := p.bind(source, target); err != nil {
			return err
		}
	}
	if err := p.bind("/proc", "/proc"); err != nil {
		return err
	}
	for _, target := range append([]string{"/proc/sys"}, p.ReadOnlyBinds...) {
		// a runtime mounts /proc/sys read-only as well
		at := filepath.Join(p.Root, target)
		err := errors.Join(unix.Mount(at, at, "", unix.MS_BIND, ""), unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
		if err != nil {
			return fmt.Errorf("read-only %s: %w", target, err)
		}
	}
	return p.pivot()
}

func (p *process) bind(source, target string) error {
	at := filepath.Join(p.Root, target)
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(at, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(at), 0o755); err == nil {
		err = os.WriteFile(at, nil, 0o755)
	}
	if err == nil {
		err = unix.Mount(source, at, "", unix.MS_BIND|unix.MS_REC, "")
	}
	if err != nil {
		return fmt.Errorf("bind %s: %w", target, err)
	}
	return nil
}

func (p *process) pivot() error {
	old := filepath.Join(p.Root, ".old")
	err := os.Mkdir(old, 0o700)
	if err == nil {
		err = unix.PivotRoot(p.Root, old)
	}
	if err == nil {
		err = errors.Join(os.Chdir("/"), unix.Unmount("/.old", unix.MNT_DETACH), os.Remove("/.old"))
	}
	if err == nil && p.ReadOnlyRoot {
		err = unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	}
	if err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	return nil
}

// dropPrivileges leaves the thread the container's user and capabilities. The raw calls concern this thread only; those
// of package syscall change every thread of a Go program, which threads in other namespaces need not survive.
func (p *process) dropPrivileges() error {
	for capability := range unix.CAP_LAST_CAP + 1 {
		if !slices.Contains(p.Capabilities, capability) {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(capability), 0, 0, 0); err != nil {
				return fmt.Errorf("bounding set: %w", err)
			}
		}
	}
	if p.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("no_new_privs: %w", err)
		}
	}
	for _, call := range []struct{ number, a, b, c uintptr }{
		{unix.SYS_SETGROUPS, 0, 0, 0},
		{unix.SYS_SETRESGID, uintptr(p.GID), uintptr(p.GID), uintptr(p.GID)},
		{unix.SYS_SETRESUID, uintptr(p.UID), uintptr(p.UID), uintptr(p.UID)},
	} {
		if _, _, errno := unix.RawSyscall(call.number, call.a, call.b, call.c); errno != 0 {
			return fmt.Errorf("user %d: %w", p.UID, errno)
		}
	}
	return setCapabilities(p.Capabilities, p.UID)
}

// setCapabilities gives root exactly the set, and everyone else nothing: Kubernetes grants no ambient capabilities.
func setCapabilities(set []int, uid int) error {
	var data [2]unix.CapUserData
	if uid == 0 {
		for _, capability := range set {
			data[capability/32].Permitted |= 1 << (capability % 32)
		}
	}
	for i := range data {
		data[i].Effective = data[i].Permitted
	}
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	return nil
}

// Status reads a line of /proc/PID/status, such as CapEff, of a running container.
func (c *Container) Status(key string) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.PID()))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("/proc/%d/status has no %s", c.PID(), key)
}
