package relay

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/meshless-dev/meshless/test/program"
)

// TestUnresponsive cuts the cable: of a network namespace of its own, whose loopback interface is taken down. The peer
// has read everything before, or has closed its window.
func TestUnresponsive(t *testing.T) {
	for name, read := range map[string]bool{"a peer that has read": true, "a peer that has not read": false} {
		t.Run(name, func(t *testing.T) { testUnresponsive(t, read) })
	}
}

func testUnresponsive(t *testing.T, read bool) {
	inNetworkNamespace(t)
	c, peer := connected(t)
	// three retransmissions, 1.4 s
	silent := func() bool { return ask(c, func(fd int) bool { return silent(fd, 3, 1000) }, false) }
	fillUnread(t, c)
	for range 20 { // two seconds in which the peer reads nothing, and is there
		if silent() {
			t.Fatal("a peer that does not read counts as unresponsive")
		}
		time.Sleep(100 * time.Millisecond)
	}
	if read {
		drain(t, peer)
	}
	setLoopback(t, netlink.LinkSetDown)
	if read {
		if _, err := c.Write([]byte("anybody there?")); err != nil {
			t.Fatal(err)
		}
	}
	if silent() {
		t.Error("unresponsive at once")
	}
	for deadline := time.Now().Add(20 * time.Second); !silent(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the peer is gone, and nobody notices")
		}
	}
	c.Close()
	if unresponsive(c) {
		t.Error("a closed connection counts as unresponsive")
	}
}

// fillUnread writes until the peer's window is closed.
func fillUnread(t *testing.T, c net.Conn) {
	t.Helper()
	for range 1000 {
		_ = c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := c.Write(make([]byte, 64<<10)); os.IsTimeout(err) {
			_ = c.SetWriteDeadline(time.Time{})
			return
		}
	}
	t.Fatal("the window never closed")
}

// drain reads until nothing comes any more.
func drain(t *testing.T, c net.Conn) {
	t.Helper()
	buffer := make([]byte, 1<<20)
	for {
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := c.Read(buffer); os.IsTimeout(err) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// inNetworkNamespace moves the test's thread into a network namespace of its own, with loopback up.
func inNetworkNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		program.Missing(t, "root for a network namespace: sudo -E go test ./proxy/relay")
	}
	runtime.LockOSThread() // and never unlocks: the thread ends with the test's goroutine
	ns, err := netns.New()
	if err != nil {
		t.Fatal(fmt.Errorf("network namespace: %w", err))
	}
	t.Cleanup(func() { ns.Close() })
	setLoopback(t, netlink.LinkSetUp)
}

func setLoopback(t *testing.T, set func(netlink.Link) error) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = set(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
}
