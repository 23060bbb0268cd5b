package listen_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/test/program"
)

// redirectRules is what init does to what the app opens, for one port.
const redirectRules = `table inet t { chain output { type nat hook output priority -100; tcp dport 8080 redirect to :%d; }; }`

// TestOriginalInKernel asks a real kernel. It runs itself again in a network namespace of its own, so it needs root,
// nft and ip.
func TestOriginalInKernel(t *testing.T) {
	const inside = "MESHLESS_TEST_NETNS"
	if os.Getenv(inside) == "" {
		if os.Getuid() != 0 {
			program.Missing(t, "root to make a network namespace: sudo -E go test ./proxy/listen")
		}
		c := exec.CommandContext(t.Context(), "unshare", "--net", os.Args[0], "-test.run=^TestOriginalInKernel$", "-test.v", "-test.timeout=60s")
		c.Env = append(os.Environ(), inside+"=1")
		out, err := c.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestOriginalInKernel") {
			t.Fatalf("in its namespace: %v\n%s", err, out)
		}
		return
	}
	command := func(stdin string, args ...string) {
		t.Helper()
		c := exec.CommandContext(t.Context(), args[0], args[1:]...)
		c.Stdin = strings.NewReader(stdin)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	command("", "ip", "link", "set", "lo", "up")
	command("", "ip", "addr", "add", "10.77.0.1/32", "dev", "lo")
	command("", "ip", "-6", "addr", "add", "fd77::1/128", "dev", "lo")
	all, err := listen.Bind(":0")
	if err != nil {
		t.Fatal(err)
	}
	everywhere := all[0]
	command(fmt.Sprintf(redirectRules, listen.AddrPort(everywhere.Addr()).Port()), "nft", "-f", "-")
	checkOriginal(t, everywhere, "10.77.0.1:8080")
	checkOriginal(t, everywhere, "[fd77::1]:8080")
	everywhere.Close()

	loopback, err := listen.Bind("localhost:15001")
	if err != nil {
		t.Fatal(err)
	}
	if len(loopback) != 2 {
		t.Fatalf("%d loopback listeners, want 2", len(loopback))
	}
	command("flush ruleset\n"+fmt.Sprintf(redirectRules, 15001), "nft", "-f", "-")
	checkOriginal(t, loopback[0], "10.77.0.1:8080")
	checkOriginal(t, loopback[1], "[fd77::1]:8080")

	// Directly: connection tracking is on here, so the kernel answers, with our own address.
	c, accepted := connect(t, loopback[0], loopback[0].Addr().String())
	defer c.Close()
	defer accepted.Close()
	if got, err := listen.OriginalDst(accepted, listen.KernelOriginalDst); err == nil {
		t.Errorf("direct connection: got %s", got)
	}
}

func checkOriginal(t *testing.T, l net.Listener, dst string) {
	t.Helper()
	c, accepted := connect(t, l, dst)
	defer c.Close()
	defer accepted.Close()
	got, err := listen.OriginalDst(accepted, listen.KernelOriginalDst)
	if err != nil || got != netip.MustParseAddrPort(dst) {
		t.Errorf("original destination is %s, %v; want %s", got, err, dst)
	}
}

func connect(t *testing.T, l net.Listener, dst string) (net.Conn, *net.TCPConn) {
	t.Helper()
	_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
	c, err := net.DialTimeout("tcp", dst, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c, accepted.(*net.TCPConn)
}
