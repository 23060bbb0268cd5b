package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/program"
)

// build compiles the program as the image does: static, so that it runs FROM scratch.
func build(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		program.Missing(t, "root to make network namespaces: sudo -E go test ./cmd/meshless-init")
	}
	binary := filepath.Join(t.TempDir(), api.InitName)
	cmd := exec.Command("go", "build", "-o", binary, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

// start runs the binary in a fresh network namespace as a container runtime would: user 0, without the privilege to
// gain privileges, and of all capabilities only those to keep.
func start(t *testing.T, binary string, keep []uintptr, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	return startWith(t, func() error { return dropCapabilities(keep, true) }, nil, binary, args...)
}

// startWith runs the binary in a fresh network namespace, on a thread that prepare has changed, as a process with these
// attributes.
func startWith(t *testing.T, prepare func() error, attributes *syscall.SysProcAttr, binary string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, its namespace and its capabilities end here
		done <- func() error {
			ns, err := netns.New()
			if err != nil {
				return err
			}
			defer ns.Close()
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(lo); err != nil {
				return err
			}
			if err := prepare(); err != nil {
				return err
			}
			cmd := exec.CommandContext(t.Context(), binary, args...)
			cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = "/", []string{}, &out, &errs, attributes
			return cmd.Run() // the child is forked by this thread, so it has what this thread has
		}()
	}()
	err = <-done
	return out.String(), errs.String(), err
}

// dropCapabilities takes all but keep out of every set of the calling thread, and on demand the privilege to gain
// privileges.
func dropCapabilities(keep []uintptr, noNewPrivileges bool) error {
	var bits uint64
	for _, c := range keep {
		bits |= 1 << c
	}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if bits&(1<<c) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return err
		}
	}
	if noNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	low, high := uint32(bits), uint32(bits>>32)
	data := [2]unix.CapUserData{{Effective: low, Permitted: low}, {Effective: high, Permitted: high}}
	return unix.Capset(&header, &data[0])
}

func TestNeedsNetAdminOnly(t *testing.T) {
	stdout, stderr, err := start(t, build(t), []uintptr{unix.CAP_NET_ADMIN}, "--proxy-uid=15000", "--exclude-inbound-ports=22")
	if err != nil || stderr != "" {
		t.Fatalf("%v: %s", err, stderr)
	}
	for _, want := range []string{"chain prerouting {", "chain output {", "tcp dport 22 return", "redirect to :15001", "chain guard {", "reject with tcp reset"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("%q is missing in\n%s", want, stdout)
		}
	}
}

func TestFailsWithoutNetAdmin(t *testing.T) {
	stdout, stderr, err := start(t, build(t), nil)
	if err == nil || stdout != "" || !strings.HasPrefix(stderr, api.InitName+": ") || !strings.Contains(stderr, "capability NET_ADMIN") {
		t.Errorf("got %v, %q, %q, want a failure that names NET_ADMIN", err, stdout, stderr)
	}
}

// With iptables the program starts others, which need no more than it has: iptables-nft no NET_RAW.
func TestIPTablesNeedsNetAdminOnly(t *testing.T) {
	if _, err := os.Stat("/usr/sbin/iptables-nft-restore"); err != nil {
		program.Missing(t, "iptables: apt-get install iptables: %v", err)
	}
	binary := build(t)
	stdout, stderr, err := start(t, binary, []uintptr{unix.CAP_NET_ADMIN}, "--backend=IPTables", "--exclude-inbound-ports=22")
	if err != nil || stderr != "" {
		t.Fatalf("%v: %s", err, stderr)
	}
	for _, want := range []string{": iptables-nft, as --backend=IPTables says", "# ip6tables-nft", "-A MESHLESS_PREROUTING -p tcp -m tcp --dport 22 -j RETURN", "--to-ports 15001", "--ctdir ORIGINAL -j REJECT"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("%q is missing in\n%s", want, stdout)
		}
	}
	stdout, stderr, err = start(t, binary, nil, "--backend=IPTables")
	if err == nil || stdout != "" || !strings.Contains(stderr, "capability NET_ADMIN") {
		t.Errorf("got %v, %q, %q, want a failure that names NET_ADMIN", err, stdout, stderr)
	}
}

// As another user than root the program needs NET_ADMIN in force, which a manifest alone does not give: ambient (what
// Kubernetes lacks, KEP-2763), or by the file, and then only with allowPrivilegeEscalation: true.
func TestNonRoot(t *testing.T) {
	binary := build(t)
	if err := os.Chmod(filepath.Dir(filepath.Dir(binary)), 0o755); err != nil { // another user must pass
		t.Fatal(err)
	}
	able := filepath.Join(filepath.Dir(binary), "able")
	program, err := os.ReadFile(binary)
	if err == nil {
		err = os.WriteFile(able, program, 0o755)
	}
	if err == nil {
		err = unix.Setxattr(able, "security.capability", fileCapability(unix.CAP_NET_ADMIN), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534, NoSetGroups: true}
	for name, c := range map[string]struct {
		binary          string
		noNewPrivileges bool // allowPrivilegeEscalation: false
		ambient         []uintptr
		works           bool
	}{
		"capabilities.add alone":                       {binary, true, nil, false},
		"capabilities.add, with escalation":            {binary, false, nil, false},
		"ambient":                                      {binary, true, []uintptr{unix.CAP_NET_ADMIN}, true},
		"capability of the file":                       {able, false, nil, true},
		"capability of the file, but no new privilege": {able, true, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			bounding := func() error {
				return dropCapabilities([]uintptr{unix.CAP_NET_ADMIN, unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETPCAP}, c.noNewPrivileges)
			}
			stdout, stderr, err := startWith(t, bounding, &syscall.SysProcAttr{Credential: nobody, AmbientCaps: c.ambient}, c.binary, "--proxy-uid=15000")
			switch {
			case c.works && (err != nil || stderr != "" || !strings.Contains(stdout, "redirect to :15001")):
				t.Errorf("%v: %q, %s", err, stdout, stderr)
			case !c.works && (err == nil || stdout != "" || !strings.Contains(stderr, "capability NET_ADMIN") || !strings.Contains(stderr, "this is uid 65534: set runAsUser: 0")):
				t.Errorf("got %v, %q, %q, want a failure that names NET_ADMIN and the user", err, stdout, stderr)
			}
		})
	}
}

// fileCapability is the extended attribute by which a file gives a capability, in force at once (linux/capability.h,
// vfs_cap_data of revision 2).
func fileCapability(c uint32) []byte {
	const revision, effective = 0x02000000, 1
	var data []byte
	for _, word := range []uint32{revision | effective, 1 << c, 0, 0, 0} {
		data = binary.LittleEndian.AppendUint32(data, word)
	}
	return data
}

// The command that takes the rules out needs what the one that makes them needs, and says what it found.
func TestRemoveCommand(t *testing.T) {
	program := build(t)
	if stdout, stderr, err := start(t, program, []uintptr{unix.CAP_NET_ADMIN}, "remove"); err != nil || stdout != "nothing of meshless-init is here\n" || stderr != "" {
		t.Errorf("in an empty namespace: %v, %q, %q", err, stdout, stderr)
	}
	if stdout, stderr, err := start(t, program, nil, "remove"); err == nil || stdout != "" || !strings.Contains(stderr, "capability NET_ADMIN") {
		t.Errorf("without NET_ADMIN: %v, %q, %q", err, stdout, stderr)
	}
}
