package apply

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/nftables"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/test/program"
)

// testBackend is one way to write rules into the kernel, forced by what the image holds.
type testBackend struct {
	name    string
	backend podplan.Backend
	variant variant
}

var testBackends = []testBackend{
	{"nftables", podplan.BackendNFTables, ""},
	{"iptables-nft", podplan.BackendIPTables, variantNFT},
	{"iptables-legacy", podplan.BackendIPTables, variantLegacy},
}

// forEachBackend runs a test with every back end: whatever is true of one must be true of the others.
func forEachBackend(t *testing.T, test func(*testing.T, testBackend)) {
	t.Helper()
	for _, b := range testBackends {
		t.Run(b.name, func(t *testing.T) { test(t, b) })
	}
}

// forEachFamily runs a test with every back end, in each family.
func forEachFamily(t *testing.T, test func(*testing.T, testBackend, family)) {
	t.Helper()
	forEachBackend(t, func(t *testing.T, b testBackend) {
		for name, f := range families {
			t.Run(name, func(t *testing.T) { test(t, b, f) })
		}
	})
}

// lab is a pod and a peer with their servers, in one family, after the back end has written the rules.
func (b testBackend) lab(t *testing.T, f family, args podplan.InitArgs) lab {
	t.Helper()
	l := newLab(t)
	populate(t, l, f)
	b.apply(t, l.pod, args)
	return l
}

// requirePrograms skips a test that runs iptables where it is not installed; in CI that is a failure.
func requirePrograms(t *testing.T) {
	t.Helper()
	if len(host.variants()) == 2 {
		return
	}
	program.Missing(t, "both variants of the iptables programs: apt-get install iptables")
}

// image is a system that has the programs of these variants and families only.
func image(t *testing.T, variants []variant, families ...rules.Family) system {
	t.Helper()
	if len(variants) > 0 {
		requirePrograms(t)
	}
	dir := t.TempDir()
	for _, v := range variants {
		for _, f := range families {
			for _, verb := range []string{"restore", "save"} {
				program := host.program(v, f, verb)
				must(t, os.Symlink(program, filepath.Join(dir, filepath.Base(program))))
			}
		}
	}
	return system{directories: []string{dir}}
}

func (b testBackend) system(t *testing.T) system {
	t.Helper()
	if b.variant == "" {
		return image(t, nil)
	}
	return image(t, []variant{b.variant}, rules.IPv4, rules.IPv6)
}

// apply runs the back end in the namespace and returns what it printed.
func (b testBackend) apply(t *testing.T, ns netns.NsHandle, args podplan.InitArgs) string {
	t.Helper()
	args.Backend = b.backend
	text, err := tryOn(t, b.system(t), ns, args)
	must(t, err)
	return text
}

func tryOn(t *testing.T, s system, ns netns.NsHandle, args podplan.InitArgs) (string, error) {
	t.Helper()
	var out strings.Builder
	err := inside(t, ns, func() error { return s.apply(args, &out) })
	return out.String(), err
}

// withoutNFTables runs f on a thread whose kernel has no netfilter over netlink, as one without nf_tables: a filter of
// system calls refuses such sockets to the thread and to what it starts.
func withoutNFTables(t *testing.T, ns netns.NsHandle, f func() error) error {
	t.Helper()
	return inside(t, ns, func() error {
		if err := refuseNetfilterSockets(); err != nil {
			return fmt.Errorf("seccomp: %w", err)
		}
		return f()
	})
}

// residue is which back ends' rules of ours the namespace holds.
func residue(t *testing.T, ns netns.NsHandle) (found []string) {
	t.Helper()
	requirePrograms(t)
	must(t, inside(t, ns, func() error {
		for _, v := range []variant{variantNFT, variantLegacy} {
			for _, f := range []rules.Family{rules.IPv4, rules.IPv6} {
				held, err := host.held(v, f)
				if err != nil {
					return err
				}
				if slices.ContainsFunc(rules.Tables, func(table string) bool { return held[table].Ours() }) {
					found = append(found, f.Program("-"+string(v)))
				}
			}
		}
		there, err := holdsTable()
		if there {
			found = append(found, "nftables")
		}
		return err
	}))
	return found
}

// refuseNetfilterSockets makes socket(AF_NETLINK, _, NETLINK_NETFILTER) fail with EPROTONOSUPPORT for this thread and
// its children, for ever.
func refuseNetfilterSockets() error {
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret   = unix.BPF_RET | unix.BPF_K
		// struct seccomp_data: the call's number, then at 16 its arguments of eight bytes each, little-endian on the
		// machines that run this.
		number, domain, protocol = 0, 16, 32
	)
	filter := []unix.SockFilter{
		{Code: load, K: number},
		{Code: equal, K: unix.SYS_SOCKET, Jt: 0, Jf: 5},
		{Code: load, K: domain},
		{Code: equal, K: unix.AF_NETLINK, Jt: 0, Jf: 3},
		{Code: load, K: protocol},
		{Code: equal, K: unix.NETLINK_NETFILTER, Jt: 0, Jf: 1},
		{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPROTONOSUPPORT)},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
	}
	return installFilter(filter)
}

func installFilter(filter []unix.SockFilter) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}

func holdsTable() (bool, error) {
	tables, err := (&nftables.Conn{}).ListTablesOfFamily(nftables.TableFamilyINet)
	return slices.ContainsFunc(tables, func(x *nftables.Table) bool { return x.Name == rules.Table }), err
}
