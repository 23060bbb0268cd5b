package apply

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// The bypass tests: every way out of and into a pod that a process without NET_ADMIN has, one line each, with every
// back end and in both IP families. A way out is closed if the peer is never reached: the outbound proxy answers, or
// nothing does. What is a real way around stands here too, as TestKnownBypasses, so that docs/security.md says what is
// true. Beside them stand TestRouting, TestUDPIsNotRedirected, TestLoopbackFromOutside and TestIPv6EnabledLater.

// who is a process of the pod.
type who struct {
	name         string
	uid          int
	capabilities []uintptr // in force; what a runtime leaves to its bounding set alone does not matter here
}

var (
	appUser    = who{"app", appUID, nil}
	otherUser  = who{"another user", 4242, nil}
	bareRoot   = who{"root without capabilities", 0, nil}
	rootLike   = who{"root with the default capabilities", 0, defaultCapabilities}
	everybody  = []who{appUser, otherUser, bareRoot, rootLike}
	powerless  = []who{appUser, otherUser, bareRoot}
	secondPod4 = "10.77.0.22"
	secondPod6 = "fd77::22"
)

// defaultCapabilities are what containerd gives to root where the manifest says nothing (containerd, pkg/oci:
// defaultUnixCaps). CRI-O gives less, SETUID among it.
var defaultCapabilities = []uintptr{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FSETID, unix.CAP_FOWNER, unix.CAP_MKNOD, unix.CAP_NET_RAW, unix.CAP_SETGID,
	unix.CAP_SETUID, unix.CAP_SETFCAP, unix.CAP_SETPCAP, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_CHROOT, unix.CAP_KILL, unix.CAP_AUDIT_WRITE}

// become makes the calling thread that process. The calls of package unix would change every thread.
func (w who) become() error {
	var bits uint64
	for _, c := range w.capabilities {
		bits |= 1 << c
	}
	if w.uid != 0 {
		for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
			if _, _, errno := unix.RawSyscall(call, uintptr(w.uid), uintptr(w.uid), uintptr(w.uid)); errno != 0 {
				return errno
			}
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{{Effective: uint32(bits), Permitted: uint32(bits)}, {Effective: uint32(bits >> 32), Permitted: uint32(bits >> 32)}}
	return unix.Capset(&header, &data[0])
}

// way is one attempt to get past the rules.
type way struct {
	name    string
	by      []who
	domain  int                          // of the socket; 0: the family's
	proto   int                          // of the socket; 0: TCP
	prepare func(fd int, f family) error // what is done to the socket before it connects
	dial    func(fd int, to unix.Sockaddr) error
	host    func(f family) string // nil: the foreign address
	port    int                   // 0: the Service's
	only    string                // IPv4 or IPv6; empty: both
	denied  []error               // the kernel must refuse the attempt with one of these
	opens   bool                  // a bypass that is known and documented: the peer is reached
	silent  bool                  // with the rules nobody answers
	refused bool                  // with the rules the program gets an error at once
	// without the rules nobody answers, so that the way shows nothing of them but that they open none
	dead bool
}

// attempt opens the connection and returns the server's first line. An error of the preparation is marked as such.
func (w way) attempt(t *testing.T, ns netns.NsHandle, by who, f family) (line string, err error) {
	t.Helper()
	err = inside(t, ns, func() error {
		if err := by.become(); err != nil {
			t.Errorf("become %s: %v", by.name, err)
			return err
		}
		host, port, domain := f.foreign, cmp.Or(w.port, servicePort), cmp.Or(w.domain, f.domain)
		if w.host != nil {
			host = w.host(f)
		}
		fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, w.proto)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		limit := unix.NsecToTimeval(patience.Nanoseconds()) // also of connect(2)
		if w.silent {
			limit = unix.Timeval{Usec: 300_000}
		}
		if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)); err != nil {
			return err
		}
		if w.prepare != nil {
			if err := w.prepare(fd, f); err != nil {
				return err
			}
		}
		dial := unix.Connect
		if w.dial != nil {
			dial = w.dial
		}
		if err := dial(fd, sockaddr(host, port, domain)); err != nil {
			return err
		}
		file := os.NewFile(uintptr(dup(fd)), "connection")
		defer file.Close()
		line, err = readLine(file)
		return err
	})
	return line, err
}

// dup gives os.File a descriptor of its own; it is blocking, so that the time limit of the socket holds.
func dup(fd int) int {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return -1
	}
	return n
}

func (w way) check(t *testing.T, l lab, by who, f family) {
	t.Helper()
	line, err := w.attempt(t, l.pod, by, f)
	server, _, _ := strings.Cut(line, " ")
	switch {
	case missing(err):
		t.Logf("this kernel has no such thing, so it is no way out: %v", err)
	case len(w.denied) > 0:
		if !isAny(err, w.denied...) {
			t.Errorf("got %q, %v, want one of %v", line, err, w.denied)
		}
	case w.opens:
		if server != "peer" {
			t.Errorf("got %q, %v: this was a known bypass and is closed; good, say so in docs/security.md", line, err)
		}
	case w.silent:
		if err == nil {
			t.Errorf("got %q, want silence", line)
		}
	case w.refused:
		if !isAny(err, unix.ECONNREFUSED) {
			t.Errorf("got %q, %v, want a refusal", line, err)
		}
	case server != "outbound":
		t.Errorf("got %q, %v, want the outbound proxy", line, err)
	}
}

// control takes the way before the rules are there: one that leads nowhere then says nothing about the rules.
func (w way) control(t *testing.T, l lab, f family) {
	t.Helper()
	w.silent = w.dead // which is then waited for
	line, err := w.attempt(t, l.pod, w.by[0], f)
	if reached := strings.HasPrefix(line, "peer "); reached == w.dead && !missing(err) {
		t.Errorf("without the rules: got %q, %v; reached: %t", line, err, reached)
	}
}

// missing tells whether the kernel does not have what the way needs.
func missing(err error) bool {
	return isAny(err, unix.EPROTONOSUPPORT, unix.ENOPROTOOPT, unix.EAFNOSUPPORT)
}

// sockaddr is an address for a socket of the domain; an IPv4 address becomes a mapped one on one of IPv6.
func sockaddr(host string, port, domain int) unix.Sockaddr {
	a := parseAddr(host)
	if domain == unix.AF_INET {
		return &unix.SockaddrInet4{Port: port, Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Port: port, Addr: a.As16()}
}

func bindTo(host func(f family) string) func(int, family) error {
	return func(fd int, f family) error { return unix.Bind(fd, sockaddr(host(f), 0, f.domain)) }
}

// option sets an option of IPv4 or of IPv6.
func option(level4, name4, level6, name6, value int) func(int, family) error {
	return func(fd int, f family) error {
		if f.domain == unix.AF_INET {
			return unix.SetsockoptInt(fd, level4, name4, value)
		}
		return unix.SetsockoptInt(fd, level6, name6, value)
	}
}

func socketOption(name, value int) func(int, family) error {
	return option(unix.SOL_SOCKET, name, unix.SOL_SOCKET, name, value)
}

func toDevice(name string) func(int, family) error {
	return func(fd int, _ family) error { return unix.BindToDevice(fd, name) }
}

// forEachWay tries the ways with each back end and in each family.
func forEachWay(t *testing.T, ways []way) {
	forEachBackend(t, func(t *testing.T, b testBackend) {
		t.Parallel() // most of it is waiting for answers that do not come
		for name, f := range families {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				only := slices.DeleteFunc(slices.Clone(ways), func(w way) bool { return w.only != "" && w.only != name })
				tryWays(t, b, f, only)
			})
		}
	})
}

func tryWays(t *testing.T, b testBackend, f family, ways []way) {
	l := newLab(t)
	populate(t, l, f)
	allowRoutes(t, l)
	must(t, inside(t, l.pod, func() error { return addAddresses("eth0", secondPod4+"/24", secondPod6+"/64") }))
	must(t, inside(t, l.pod, func() error { return addClients(clientaddr.Default, true) }))
	l.out(f, appUID, "peer").check(t) // and both ends know each other's hardware addresses
	for _, w := range ways {
		if len(w.denied) == 0 {
			t.Run("control: "+w.name, func(t *testing.T) { w.control(t, l, f) })
		}
	}
	b.apply(t, l.pod, podplan.InitArgs{ProxyUID: proxyUID})
	for _, w := range ways {
		for _, by := range w.by {
			t.Run(fmt.Sprintf("%s, %s", w.name, by.name), func(t *testing.T) { w.check(t, l, by, f) })
		}
	}
	l.out(f, proxyUID, "peer").check(t) // control: the peer is still there
}

// allowRoutes lets the peer follow source and segment routes. A new namespace has the node's value of route_localnet,
// which a kube-proxy in iptables mode sets; without it the kernel itself refuses loopback addresses as sources.
func allowRoutes(t *testing.T, l lab) {
	t.Helper()
	setSysctl(t, l.pod, "net/ipv4/conf/all/route_localnet", "1")
	for _, device := range []string{"all", "eth0"} {
		setSysctl(t, l.peer, "net/ipv4/conf/"+device+"/accept_source_route", "1")
		if hasSegmentRouting() {
			setSysctl(t, l.peer, "net/ipv6/conf/"+device+"/seg6_enabled", "1")
		}
	}
}
