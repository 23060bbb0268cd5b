package redirect_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/proxy/redirect"
)

// Tests with the rules of init on a real kernel are those of init/apply (TestRulesLost and its neighbors) and of
// test/kernel (TestInitNeverRan, TestRulesFlushed). Here is what needs no rules.

// TestWithoutRules: on a machine without rules, at an address that is local, both chains are missing from the first
// check on, and before it nothing is proved.
func TestWithoutRules(t *testing.T) {
	verdicts := make(chan redirect.Verdict, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c, err := redirect.New(redirect.Options{
		Clients:     clientaddr.Ranges{V4: netip.MustParsePrefix("127.66.0.0/16")},
		OriginalDst: func(*net.TCPConn) (netip.AddrPort, error) { return netip.AddrPort{}, errors.New("not asked") },
		Report: func(v redirect.Verdict) {
			select {
			case verdicts <- v:
			default:
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Err(); err == nil || !strings.Contains(err.Error(), "not proved yet") {
		t.Errorf("before the first check: %v", err)
	}
	done := make(chan struct{})
	go func() { c.Run(ctx); close(done) }()
	v := <-verdicts
	if v.Result != redirect.Failed || !slices.Equal(v.Missing, []redirect.Chain{redirect.Output, redirect.EgressFilter}) || !v.IsMissing(redirect.Output) || v.IsMissing(redirect.Prerouting) {
		t.Errorf("verdict %+v", v)
	}
	if err := c.Err(); err == nil || !strings.Contains(err.Error(), "(chain output, guard)") || !strings.Contains(err.Error(), "of the same release "+api.Version) {
		t.Errorf("it says %v", err)
	}
	cancel()
	<-done
}

// TestNotLocal: an address that is not the pod's is an error at the start, which names init.
func TestNotLocal(t *testing.T) {
	_, err := redirect.New(redirect.Options{Clients: clientaddr.Ranges{V4: netip.MustParsePrefix("192.0.2.0/24")}})
	if err == nil || !strings.Contains(err.Error(), "192.0.2.0") || !strings.Contains(err.Error(), "meshless-init") {
		t.Errorf("got %v", err)
	}
}

// TestArrived: a connection is a canary by its source alone, and one with an unknown destination proves nothing.
func TestArrived(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := redirect.New(redirect.Options{Clients: clientaddr.Ranges{V4: netip.MustParsePrefix("127.67.0.0/16")},
		OriginalDst: func(*net.TCPConn) (netip.AddrPort, error) { return netip.AddrPort{}, errors.New("unknown") }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for from, want := range map[string]bool{"127.67.0.0": true, "127.67.0.1": false, "127.0.0.1": false} {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := d.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for range 40 { // more than are remembered: none waits
			if got := c.Arrived(accepted.(*net.TCPConn)); got != want {
				t.Fatalf("from %s: %t, want %t", from, got, want)
			}
		}
		conn.Close()
		accepted.Close()
	}
}

// TestProbes: what comes to the health port from outside directly is not ready; from the pod itself, and redirected, it
// is answered as it is.
func TestProbes(t *testing.T) {
	var reported []bool
	p := &redirect.Probes{Own: func(a netip.Addr) bool { return a == netip.MustParseAddr("10.1.2.3") }, Report: func(missing bool) { reported = append(reported, missing) }}
	answer := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) })
	}
	metrics, health := p.Metrics(answer("metrics"), answer("health")), p.Health(answer("health"))
	for _, c := range []struct {
		name, path, from string
		at               http.Handler
		local            int
		status           int
		body             string
		reported         []bool
	}{
		{"kubelet, not redirected", "/readyz", "10.1.0.1:999", health, api.HealthPort, 503, "(chain prerouting)", []bool{true}},
		{"kubelet, not redirected, alive", "/livez", "10.1.0.1:999", health, api.HealthPort, 200, "health", nil},
		{"kubelet, by IPv6", "/readyz", "[fd00::1]:999", health, api.HealthPort, 503, "(chain prerouting)", []bool{true}},
		{"the hook of the pod", "/readyz", "127.0.0.1:999", health, api.HealthPort, 200, "health", nil},
		{"the hook of the pod, by IPv6", "/readyz", "[::1]:999", health, api.HealthPort, 200, "health", nil},
		{"the app of the pod", "/readyz", "[::ffff:10.1.2.3]:999", health, api.HealthPort, 200, "health", nil},
		{"nobody", "/readyz", "somewhere", health, api.HealthPort, 503, "(chain prerouting)", []bool{true}},
		{"kubelet, redirected", "/readyz", "10.1.0.1:999", metrics, api.HealthPort, 200, "health", []bool{false}},
		{"Prometheus", "/metrics", "10.1.0.9:999", metrics, api.MetricsPort, 200, "metrics", nil},
		{"a probe at the metrics port", "/readyz", "10.1.0.9:999", metrics, api.MetricsPort, 200, "metrics", nil},
	} {
		reported = nil
		r := httptest.NewRequest(http.MethodGet, c.path, nil)
		r.RemoteAddr = c.from
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(&net.TCPAddr{IP: net.IPv4(10, 1, 2, 3), Port: c.local})))
		w := httptest.NewRecorder()
		c.at.ServeHTTP(w, r)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.body) || !slices.Equal(reported, c.reported) {
			t.Errorf("%s: %d %q, reported %v", c.name, w.Code, w.Body, reported)
		}
	}
}

// TestListen: the local address of what was opened to the health port is that; of all else, what the kernel says.
func TestListen(t *testing.T) {
	for name, c := range map[string]struct {
		dst  netip.AddrPort
		err  error
		want string
	}{
		"redirected":       {netip.MustParseAddrPort("10.1.2.3:15021"), nil, "10.1.2.3:15021"},
		"direct":           {netip.MustParseAddrPort("127.0.0.1:15020"), nil, ""},
		"nothing is known": {netip.AddrPort{}, errors.New("unknown"), ""},
	} {
		inner, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l := (&redirect.Probes{OriginalDst: func(*net.TCPConn) (netip.AddrPort, error) { return c.dst, c.err }}).Listen(inner)
		conn, err := net.DialTimeout("tcp", inner.Addr().String(), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if c.want == "" {
			c.want = inner.Addr().String()
		}
		if got := accepted.LocalAddr().String(); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		conn.Close()
		accepted.Close()
		l.Close()
		if _, err := l.Accept(); err == nil {
			t.Error("a closed listener accepts")
		}
	}
}
