package sidecar

import (
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// epolls are the descriptors of this process that are epolls.
func epolls(t *testing.T) map[int]bool {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]bool{}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.Contains(target, "eventpoll") {
			fd, _ := strconv.Atoi(filepath.Base(link))
			found[fd] = true
		}
	}
	return found
}

// TestFailingEngine: a system call of the relay fails for good. Connections would hang for ever, so they end, and the
// process does, with the error.
func TestFailingEngine(t *testing.T) {
	ca := testca.New(t, proxytest.TrustDomain)
	server := startPod(t, serverIP, startApp(t, echo), workload(t, ca, "server", withServer("server")).Sealed(t))
	before := epolls(t)
	client := startPod(t, clientIP, netip.MustParseAddrPort(clientIP+":1"), workload(t, ca, "client", withServer("server")).Sealed(t))
	client.dials(server.inboundAddr())
	c := dial(t, client.outboundAddr())
	if err := roundTrip(c, "hello"); err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for fd := range epolls(t) {
		if !before[fd] {
			if err := unix.Dup3(int(null.Fd()), fd, unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := roundTrip(c, "x"); err == nil { // wakes the loop, which finds out
		_ = roundTrip(c, "x")
	}
	select {
	case err := <-client.done:
		if err == nil || !strings.Contains(err.Error(), "relay: epoll_wait: ") {
			t.Errorf("serve returned %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the proxy goes on without an engine")
	}
	if err := roundTrip(c, "x"); err == nil {
		t.Error("the connection goes on")
	}
	if !strings.Contains(client.logs.String(), `"reason":"failed"`) {
		t.Errorf("the connection's end is not logged as an error: %s", client.logs)
	}
}
