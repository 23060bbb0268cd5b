package apply

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/internal/api"
)

// socketMark is an option that a process without privilege may try to set on its socket. set gets the round, so that
// each of a connection sets another value.
type socketMark struct {
	name string
	set  func(fd int, f family, round int) error
	// with the rules nobody answers, which docs/init.md says
	silent bool
	before bool // makes sense before the connection alone
}

// values sets one of the values in each round, in both families or, with a level of IPv6, in its own.
func values(level, name int, of ...int) func(int, family, int) error {
	return func(fd int, f family, round int) error {
		if level == unix.SOL_IPV6 && f.domain == unix.AF_INET {
			return nil
		}
		return unix.SetsockoptInt(fd, level, name, of[round%len(of)])
	}
}

func texts(level, name int, of ...string) func(int, family, int) error {
	return func(fd int, _ family, round int) error {
		return unix.SetsockoptString(fd, level, name, of[round%len(of)])
	}
}

// allOf is the numbers from first to last.
func allOf(first, last int) (all []int) {
	for n := first; n <= last; n++ {
		all = append(all, n)
	}
	return all
}

// Options that package unix does not name (linux/in.h, linux/in6.h, asm-generic/socket.h).
const (
	ipLocalPortRange = 51
	ipUnicastIf      = 50
	ipv6AutoLabel    = 70
	ipv6FlowInfoSend = 33
	ipv6MinHopCount  = 73
	soTXTime         = 61
)

// marking are all options that mark packets or sockets, choose a feature of TCP, or take part in routing.
var marking = []socketMark{
	{name: "IP_TOS", set: values(unix.SOL_IP, unix.IP_TOS, 0xb8, 0, 0x10, 0x18, 0x08, 0x38, 0x58, 0x98, 0xff, 0)},
	{name: "IPV6_TCLASS", set: values(unix.SOL_IPV6, unix.IPV6_TCLASS, 0xb8, 0, 0x18, 0xff)},
	{name: "SO_PRIORITY", set: values(unix.SOL_SOCKET, unix.SO_PRIORITY, 4, 0, 5, 1, 6, 2, 3, 5, 0)},
	{name: "SO_PRIORITY of privilege", set: values(unix.SOL_SOCKET, unix.SO_PRIORITY, 7, 15000)},
	{name: "SO_PRIORITY and IP_TOS", set: func(fd int, f family, round int) error {
		return errors.Join(values(unix.SOL_SOCKET, unix.SO_PRIORITY, 5, 0)(fd, f, round), values(unix.SOL_IP, unix.IP_TOS, 0, 0xb8)(fd, f, round))
	}},
	{name: "SO_MARK", set: values(unix.SOL_SOCKET, unix.SO_MARK, 1, 15000)},
	{name: "IP_TTL", set: values(unix.SOL_IP, unix.IP_TTL, 64, 3, 255)},
	{name: "IPV6_UNICAST_HOPS", set: values(unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS, 64, 3, 255)},
	{name: "IP_OPTIONS", set: func(fd int, f family, round int) error {
		if f.domain != unix.AF_INET {
			return nil
		}
		return unix.SetsockoptString(fd, unix.SOL_IP, unix.IP_OPTIONS, []string{"\x01\x01\x01\x00", ""}[round%2])
	}},
	{name: "IPV6_AUTOFLOWLABEL", set: values(unix.SOL_IPV6, ipv6AutoLabel, 1, 0)},
	{name: "IPV6_FLOWINFO_SEND", set: values(unix.SOL_IPV6, ipv6FlowInfoSend, 1, 0)},
	{name: "IPV6_DONTFRAG", set: values(unix.SOL_IPV6, unix.IPV6_DONTFRAG, 1, 0)},
	{name: "IPV6_MTU", set: values(unix.SOL_IPV6, unix.IPV6_MTU, 1280)},
	{name: "IP_MTU_DISCOVER", set: values(unix.SOL_IP, unix.IP_MTU_DISCOVER, allOf(0, 5)...)},
	{name: "IP_MINTTL", set: values(unix.SOL_IP, unix.IP_MINTTL, 1, 60)},
	{name: "IP_MINTTL of a neighbour", silent: true, before: true, set: func(fd int, f family, _ int) error {
		return option(unix.SOL_IP, unix.IP_MINTTL, unix.SOL_IPV6, ipv6MinHopCount, 255)(fd, f)
	}},
	{name: "IP_FREEBIND", set: values(unix.SOL_IP, unix.IP_FREEBIND, 1, 0)},
	{name: "IP_BIND_ADDRESS_NO_PORT", set: values(unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)},
	{name: "IP_LOCAL_PORT_RANGE", set: values(unix.SOL_IP, ipLocalPortRange, 40000|40999<<16)},
	{name: "a port by bind", before: true, set: func(fd int, f family, _ int) error { return unix.Bind(fd, sockaddr(f.pod, 0, f.domain)) }},
	{name: "SO_REUSEADDR", set: values(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)},
	{name: "SO_REUSEPORT", set: values(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)},
	{name: "SO_KEEPALIVE", set: values(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1, 0)},
	{name: "SO_LINGER", set: func(fd int, _ family, _ int) error {
		return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 2})
	}},
	{name: "SO_ZEROCOPY", set: values(unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1)},
	{name: "SO_TXTIME", set: texts(unix.SOL_SOCKET, soTXTime, "\x01\x00\x00\x00\x00\x00\x00\x00")},
	{name: "SO_MAX_PACING_RATE", set: values(unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, 1<<24, -1)},
	{name: "SO_INCOMING_CPU", set: values(unix.SOL_SOCKET, unix.SO_INCOMING_CPU, 0)},
	{name: "SO_TIMESTAMPING", set: values(unix.SOL_SOCKET, unix.SO_TIMESTAMPING, unix.SOF_TIMESTAMPING_TX_SOFTWARE|unix.SOF_TIMESTAMPING_SOFTWARE)},
	{name: "SO_BINDTODEVICE eth0", silent: true, before: true, set: func(fd int, _ family, _ int) error { return unix.BindToDevice(fd, "eth0") }},
	{name: "IP_TRANSPARENT", set: values(unix.SOL_IP, unix.IP_TRANSPARENT, 1)},
	{name: "IP_UNICAST_IF", set: values(unix.SOL_IP, ipUnicastIf, 0)},
	{name: "TCP_CONGESTION", set: texts(unix.SOL_TCP, unix.TCP_CONGESTION, "reno", "cubic", "bbr")},
	{name: "TCP_USER_TIMEOUT", set: values(unix.SOL_TCP, unix.TCP_USER_TIMEOUT, 2000, 0)},
	{name: "TCP_MAXSEG", set: values(unix.SOL_TCP, unix.TCP_MAXSEG, 536, 1400)},
	{name: "TCP_WINDOW_CLAMP", set: values(unix.SOL_TCP, unix.TCP_WINDOW_CLAMP, 8192, 65536)},
	{name: "TCP_NODELAY", set: values(unix.SOL_TCP, unix.TCP_NODELAY, 1, 0)},
	{name: "TCP_QUICKACK", set: values(unix.SOL_TCP, unix.TCP_QUICKACK, 1, 0)},
	{name: "TCP_SYNCNT", set: values(unix.SOL_TCP, unix.TCP_SYNCNT, 2)},
	{name: "TCP_LINGER2", set: values(unix.SOL_TCP, unix.TCP_LINGER2, -1)},
	{name: "TCP_NOTSENT_LOWAT", set: values(unix.SOL_TCP, unix.TCP_NOTSENT_LOWAT, 1024)},
	{name: "TCP_THIN_LINEAR_TIMEOUTS", set: values(unix.SOL_TCP, unix.TCP_THIN_LINEAR_TIMEOUTS, 1)},
	{name: "TCP_TX_DELAY", set: values(unix.SOL_TCP, unix.TCP_TX_DELAY, 1000, 0)},
	{name: "TCP_FASTOPEN_CONNECT", set: values(unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT, 1)},
	{name: "TCP_FASTOPEN_NO_COOKIE", set: values(unix.SOL_TCP, unix.TCP_FASTOPEN_NO_COOKIE, 1)},
	{name: "TCP_MD5SIG for others", set: func(fd int, f family, _ int) error { return signFor(fd, f, f.excluded) }},
}

// signFor asks for TCP_MD5SIG (RFC 2385) with an address.
func signFor(fd int, f family, host string) error {
	var sig [216]byte // struct tcp_md5sig: a sockaddr_storage, flags, lengths, the interface, and the key
	address := parseAddr(host).AsSlice()
	if f.domain == unix.AF_INET {
		sig[0] = unix.AF_INET
		copy(sig[4:], address)
	} else {
		sig[0] = unix.AF_INET6
		copy(sig[8:], address)
	}
	sig[130] = 3 // the key's length
	copy(sig[136:], "key")
	return unix.SetsockoptString(fd, unix.SOL_TCP, unix.TCP_MD5SIG, string(sig[:]))
}

// moment is when a conversation sets its option.
type moment int

const (
	beforeConnect moment = iota
	beforeData
	everyRound
)

func (m moment) String() string {
	return [...]string{"before connect", "before data", "every round"}[m]
}

const rounds = 12

// converse is a connection of a process that has no privilege: it reads the server's first line, and then sends data
// and gets it back, again and again, and ends. It returns the server's name, or the error. What the kernel does not let
// the process set is not set.
func converse(t *testing.T, ns netns.NsHandle, f family, proto int, host string, port int, m socketMark, when moment) string {
	t.Helper()
	name := ""
	err := inside(t, ns, func() error {
		if err := appUser.become(); err != nil {
			return err
		}
		fd, err := unix.Socket(f.domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, proto)
		if err != nil {
			return err
		}
		file := os.NewFile(uintptr(fd), "connection")
		defer file.Close()
		limit := unix.NsecToTimeval(patience.Nanoseconds())
		if m.silent {
			limit = unix.Timeval{Usec: 200_000}
		}
		if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)); err != nil {
			return err
		}
		if when == beforeConnect {
			_ = m.set(fd, f, 0)
		}
		if err := unix.Connect(fd, sockaddr(host, port, f.domain)); err != nil {
			return err
		}
		if when == beforeData {
			_ = m.set(fd, f, 0)
		}
		name, err = talk(fd, file, f, m, when)
		return err
	})
	if err != nil {
		for _, errno := range []error{unix.ECONNRESET, unix.ECONNREFUSED, unix.EAGAIN, unix.EINPROGRESS} {
			if errors.Is(err, errno) {
				return errno.Error()
			}
		}
		return err.Error()
	}
	return name
}

// talk is what follows the connect.
func talk(fd int, file io.ReadWriter, f family, m socketMark, when moment) (string, error) {
	if _, err := file.Write([]byte("hello\n")); err != nil { // or data with the SYN would wait for it
		return "", err
	}
	first, err := readLine(file)
	if err != nil {
		return "", err
	}
	if echo, err := readLine(file); err != nil || echo != "hello" {
		return "", fmt.Errorf("echo %q: %w", echo, err)
	}
	data, back := bytes.Repeat([]byte{'x'}, 4000), make([]byte, 4000)
	for round := range rounds {
		if when == everyRound {
			_ = m.set(fd, f, round)
		}
		if _, err := file.Write(data); err != nil {
			return "", err
		}
		if _, err := io.ReadFull(file, back); err != nil {
			return "", err
		}
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return "", err
	}
	if n, err := file.Read(back); n != 0 || !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("instead of the end came %d bytes, %w", n, err)
	}
	name, _, _ := strings.Cut(first, " ")
	return name, nil
}

// TestMarksOut: no option that an app sets on its connection, at whatever moment, changes what becomes of it. It goes
// through the proxy, or where the rules leave it out past it, and ends as it would without rules.
func TestMarksOut(t *testing.T) {
	forEachFamily(t, func(t *testing.T, b testBackend, f family) {
		l := newLab(t)
		populate(t, l, f)
		targets := []struct {
			name, host string
			port       int
			answers    string
		}{{"a Service", f.foreign, servicePort, "outbound"}, {"a pod", f.peer, servicePort, "outbound"}, {"an excluded port", f.foreign, excludedOut, "peer"}}
		plain := map[string]string{}
		eachMark(marking, func(m socketMark, when moment) {
			plain[m.name+when.String()] = converse(t, l.pod, f, 0, f.foreign, servicePort, m, when)
		})
		b.apply(t, l.pod, labArgs(t))
		for _, target := range targets {
			eachMark(marking, func(m socketMark, when moment) {
				want := plain[m.name+when.String()]
				if want == "peer" {
					want = target.answers
				}
				got := converse(t, l.pod, f, 0, target.host, target.port, m, when)
				if m.silent && target.answers == "outbound" {
					if got == "peer" || got == "outbound" {
						t.Errorf("%s, %s, to %s: got %q, want silence", m.name, when, target.name, got)
					}
				} else if got != want {
					t.Errorf("%s, %s, to %s: got %q, want %q", m.name, when, target.name, got, want)
				}
			})
		}
	})
}

// eachMark calls for each option and each moment that it has.
func eachMark(marks []socketMark, call func(socketMark, moment)) {
	for _, m := range marks {
		for _, when := range []moment{beforeConnect, beforeData, everyRound} {
			if when == beforeConnect || !m.before {
				call(m, when)
			}
		}
	}
}

// sweep are all values of what may change a packet's priority, one in each round.
func sweep(all []int, set func(fd int, f family, value int) error) (marks []socketMark) {
	for len(all) > 0 {
		some := all[:min(rounds, len(all))]
		all = all[len(some):]
		marks = append(marks, socketMark{name: fmt.Sprintf("values from %d", some[0]), set: func(fd int, f family, round int) error { return set(fd, f, some[round%len(some)]) }})
	}
	return marks
}

// TestMarksSweep: all values of IP_TOS, of the traffic class of IPv6 and of SO_PRIORITY, on TCP and multipath TCP.
func TestMarksSweep(t *testing.T) {
	tos := sweep(allOf(0, 255), func(fd int, f family, value int) error {
		if f.domain == unix.AF_INET6 {
			return errors.Join(unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TCLASS, value), unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TOS, value))
		}
		return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TOS, value)
	})
	priorities := sweep(append(allOf(0, 6), 5, 0, 4, 5), func(fd int, _ family, value int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, value)
	})
	for priority := range 7 {
		priorities = append(priorities, socketMark{name: fmt.Sprintf("priority %d", priority), set: values(unix.SOL_SOCKET, unix.SO_PRIORITY, priority)})
	}
	forEachFamily(t, func(t *testing.T, b testBackend, f family) {
		l := b.lab(t, f, labArgs(t))
		for _, proto := range []int{unix.IPPROTO_TCP, unix.IPPROTO_MPTCP} {
			eachMark(append(tos, priorities...), func(m socketMark, when moment) {
				got := converse(t, l.pod, f, proto, f.foreign, servicePort, m, when)
				if proto == unix.IPPROTO_MPTCP && got == unix.EPROTONOSUPPORT.Error() {
					return // this kernel has none
				}
				if got != "outbound" {
					t.Errorf("protocol %d, %s, %s: got %q", proto, m.name, when, got)
				}
			})
		}
	})
}

// TestMarksIn: nor does what a server sets on a connection that it has accepted, from its own proxy or on an excluded
// port.
func TestMarksIn(t *testing.T) {
	forEachFamily(t, func(t *testing.T, b testBackend, f family) {
		l := newLab(t)
		b.apply(t, l.pod, labArgs(t))
		all := append(sweep(allOf(0, 255), func(fd int, f family, value int) error { return values(unix.SOL_IP, unix.IP_TOS, value)(fd, f, 0) }), marking...)
		for _, c := range []struct {
			name   string
			from   netns.NsHandle
			uid    int
			source string
			port   int
		}{{"from its proxy", l.pod, proxyUID, f.source, appPort}, {"on an excluded port", l.peer, 0, "", excludedIn}} {
			eachMark(all, func(m socketMark, when moment) {
				if when == beforeConnect || m.name == "IP_UNICAST_IF" {
					return
				}
				served := serveMarked(t, l.pod, f, c.port, m, when)
				conn, line, err := connect(t, c.from, c.uid, c.source, hostPort(f.pod, c.port))
				if err == nil {
					_, err = io.Copy(conn, conn)
					err = errors.Join(err, conn.Close())
				}
				if serverErr := <-served; serverErr != nil || err != nil || line != "marked" {
					t.Errorf("%s, %s, %s: %q, %v; the server: %v", c.name, m.name, when, line, err, serverErr)
				}
			})
		}
	})
}

// serveMarked accepts one connection as an app without privilege, says a line, sets the option, and gets back what it
// sends.
func serveMarked(t *testing.T, ns netns.NsHandle, f family, port int, m socketMark, when moment) chan error {
	t.Helper()
	ready, served := make(chan error, 1), make(chan error, 1)
	go func() {
		served <- inside(t, ns, func() error {
			listener, err := unix.Socket(f.domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				ready <- err
				return err
			}
			defer unix.Close(listener)
			limit := unix.NsecToTimeval(patience.Nanoseconds())
			err = errors.Join(appUser.become(), unix.SetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.SetsockoptTimeval(listener, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
				unix.Bind(listener, sockaddr(f.pod, port, f.domain)), unix.Listen(listener, 1))
			if ready <- err; err != nil {
				return err
			}
			fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
			if err != nil {
				return err
			}
			file := os.NewFile(uintptr(fd), "accepted")
			defer file.Close()
			if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)); err != nil {
				return err
			}
			if when == beforeData {
				_ = m.set(fd, f, 0)
			}
			return serveTalk(fd, file, f, m, when)
		})
	}()
	must(t, <-ready)
	return served
}

func serveTalk(fd int, file io.ReadWriter, f family, m socketMark, when moment) error {
	if _, err := io.WriteString(file, "marked\n"); err != nil {
		return err
	}
	data, back := bytes.Repeat([]byte{'x'}, 4000), make([]byte, 4000)
	for round := range rounds {
		if when == everyRound {
			_ = m.set(fd, f, round)
		}
		if _, err := file.Write(data); err != nil {
			return err
		}
		if _, err := io.ReadFull(file, back); err != nil {
			return err
		}
	}
	return unix.Shutdown(fd, unix.SHUT_WR)
}

// The proxy's priority is the one that none of IP_TOS gives: with it, the sockets of apps that mark their traffic are
// told apart even when they have no owner any more.
func TestNoTOSHasTheProxysPriority(t *testing.T) {
	must(t, inside(t, newNetns(t), func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for tos := range 256 {
			if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TOS, tos); err != nil {
				return err
			}
			if got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY); err != nil || got == api.ProxyPriority {
				t.Errorf("IP_TOS %#x gives priority %d, %v", tos, got, err)
			}
		}
		return nil
	}))
}
