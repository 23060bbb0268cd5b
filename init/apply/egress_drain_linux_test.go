package apply

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// What a process has written arrives, although the process has closed the socket before: it has no owner then. The
// server reads only afterwards. The same with one direction closed.
func TestEgressFilterLetsOrphansDrain(t *testing.T) { forEachFamily(t, testOrphansDrain) }

func testOrphansDrain(t *testing.T, b testBackend, f family) {
	l := newLab(t)
	b.apply(t, l.pod, labArgs(t))
	outbound, excluded, peer := hostPort(f.loopback, api.OutboundPort), hostPort(f.any, excludedIn), hostPort(f.any, excludedOut)
	for _, c := range []struct {
		name     string
		from     netns.NsHandle
		uid      int
		target   string
		at       netns.NsHandle
		listen   string
		backward bool // the server writes and closes, the client reads
	}{
		{"the app, redirected", l.pod, appUID, hostPort(f.foreign, servicePort), l.pod, outbound, false},
		{"the app, excluded", l.pod, appUID, hostPort(f.foreign, excludedOut), l.peer, peer, false},
		{"the proxy", l.pod, proxyUID, hostPort(f.foreign, servicePort), l.peer, hostPort(f.any, servicePort), false},
		{"an answer on an excluded port", l.peer, 0, hostPort(f.pod, excludedIn), l.pod, excluded, true},
		{"an answer of the inbound proxy", l.peer, 0, hostPort(f.pod, appPort), l.pod, hostPort(f.any, api.InboundPort), true},
	} {
		for _, half := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, half: %t", c.name, half), func(t *testing.T) {
				accepted := acceptOne(t, c.at, c.listen)
				conn, err := dialAs(t, c.from, c.uid, "", 0, c.target)
				must(t, err)
				writer, reader := conn, (*net.TCPConn)(nil)
				select {
				case reader = <-accepted:
				case <-time.After(patience):
					t.Fatal("no connection came")
				}
				if c.backward {
					writer, reader = reader, writer
				}
				drain(t, writer, reader, half)
			})
		}
	}
}

// acceptOne accepts one connection with a small buffer, so that most of what comes must wait at the sender.
func acceptOne(t *testing.T, ns netns.NsHandle, address string) chan *net.TCPConn {
	t.Helper()
	var l net.Listener
	must(t, inside(t, ns, func() (err error) {
		config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
			return errors.Join(raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 64<<10) }), err)
		}}
		l, err = config.Listen(t.Context(), "tcp", address)
		return err
	}))
	t.Cleanup(func() { l.Close() })
	accepted := make(chan *net.TCPConn, 1)
	go func() {
		c, err := l.Accept()
		l.Close() // before anybody knows of the connection, and listens here again
		if err == nil {
			c.SetDeadline(time.Now().Add(2 * patience))
			accepted <- c.(*net.TCPConn)
		}
	}()
	return accepted
}

func drain(t *testing.T, writer, reader *net.TCPConn, half bool) {
	t.Helper()
	drainAfter(t, writer, reader, half, func() {})
}

// drainAfter does something to the writer before it closes.
func drainAfter(t *testing.T, writer, reader *net.TCPConn, half bool, last func()) {
	t.Helper()
	defer reader.Close()
	defer writer.Close()
	const size = 6 << 20
	raw, err := writer.SyscallConn()
	must(t, err)
	must(t, errors.Join(raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4*size) }), err))
	if _, err := writer.Write(make([]byte, size)); err != nil {
		t.Fatalf("write: %v", err)
	}
	unsent := 0
	must(t, errors.Join(raw.Control(func(fd uintptr) { unsent, err = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) }), err))
	if unsent < 1<<20 {
		t.Fatalf("the control fails: only %d bytes wait to be sent", unsent)
	}
	last()
	if half {
		must(t, writer.CloseWrite())
	} else {
		must(t, writer.Close())
	}
	if n, err := io.Copy(io.Discard, reader); n != size || err != nil {
		t.Errorf("%d of %d bytes arrived: %v", n, size, err)
	}
	if half { // and the other direction still works
		if _, err := io.WriteString(reader, "thanks\n"); err != nil {
			t.Error(err)
		}
		if line, err := readLine(writer); err != nil || line != "thanks" {
			t.Errorf("backwards came %q, %v", line, err)
		}
	}
}

// Where a kernel lacks the reset alone, the egress filter drops, and the output says so; it is never left out.
func TestEgressFilterWithoutReject(t *testing.T) {
	want, err := rules.New(podplan.InitArgs{ProxyUID: proxyUID}, true)
	must(t, err)
	refusing := func(conn *nftables.Conn, set rules.Ruleset) error {
		if strings.Contains(set.String(), "reject") {
			return explainNFTables("write", unix.ENOENT)
		}
		return replace(conn, set)
	}
	ns := newNetns(t)
	must(t, inside(t, ns, func() error {
		text, err := writeNFTablesBy(refusing, want, proxyUID)
		if !strings.HasPrefix(text, "# this kernel cannot reject (no such file or directory), so the egress filter drops") || !strings.HasSuffix(text, want.Dropping().String()+rules.ZoneText(proxyUID)) {
			t.Errorf("printed\n%s", text)
		}
		return err
	}))
	must(t, inside(t, newNetns(t), func() error { // a kernel that lacks more
		text, err := writeNFTablesBy(func(*nftables.Conn, rules.Ruleset) error { return explainNFTables("write", unix.ENOENT) }, want, proxyUID)
		if there, _ := holdsTable(); text != "" || there || err == nil || !strings.Contains(err.Error(), "nft_reject_inet") {
			t.Errorf("got %q, %v; table: %t", text, err, there)
		}
		return nil
	}))
}

func TestIPTablesEgressFilterWithoutReject(t *testing.T) {
	forEachVariant(t, testIPTablesEgressFilterWithoutReject)
}

func testIPTablesEgressFilterWithoutReject(t *testing.T, b testBackend) {
	s := b.system(t)
	refuse := func(pattern string) {
		for _, f := range []rules.Family{rules.IPv4, rules.IPv6} {
			real := host.program(b.variant, f, "restore")
			at := filepath.Join(s.directories[0], filepath.Base(real))
			must(t, os.RemoveAll(at))
			script := fmt.Sprintf("#!/bin/sh\ninput=\"$(/bin/cat)\"\ncase \"$input\" in *%s*) echo No chain/target/match by that name >&2; exit 1;; esac\necho \"$input\" | %s \"$@\"\n", pattern, real)
			must(t, os.WriteFile(at, []byte(script), 0o755))
		}
	}
	refuse("'-j REJECT'")
	l := newLab(t)
	f := families["IPv4"]
	populate(t, l, f)
	text, err := tryOn(t, s, l.pod, podplan.InitArgs{ProxyUID: proxyUID, Backend: podplan.BackendIPTables})
	must(t, err)
	if strings.Count(text, "# this kernel cannot reject") != 2 || strings.Contains(text, "REJECT") || strings.Count(text, "--ctdir ORIGINAL -j DROP\n") != 4 || strings.Count(text, "-A MESHLESS_REFUSED -p tcp -j DROP\n") != 2 {
		t.Errorf("printed\n%s", text)
	}
	l.out(f, appUID, "outbound").check(t)
	refuse("conntrack") // then there is no egress filter at all, and no pod
	if text, err := tryOn(t, s, newNetns(t), podplan.InitArgs{ProxyUID: proxyUID, Backend: podplan.BackendIPTables}); err == nil || text != "" || !strings.Contains(err.Error(), "xt_conntrack") {
		t.Errorf("got %q, %v, want a failure that names the module", text, err)
	}
}
