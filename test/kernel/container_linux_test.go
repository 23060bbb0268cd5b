package kernel

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/test/lab"
)

// TestContainerMode runs the shop with sidecars that are plain containers, as clusters before Kubernetes 1.29 need
// them.
func TestContainerMode(t *testing.T) {
	r := applyShop(t, lab.NewMeshless(t, nil), "  sidecar: {mode: Container}\n", time.Now())
	r.db = r.StartPod("StatefulSet/acme-shop/acme-db")
	r.api = r.StartPod("Deployment/acme-shop/acme-api") // whose readiness probe asks the db through both proxies
	t.Run("requests arrive encrypted", r.testContainerEncryption)
	t.Run("job ends when its app says so", r.testQuit)
	t.Run("proxy outlives its app", r.testContainerStop)
}

// toDB opens a connection to the db as an app of api's pod would, and reads the greeting.
func (r *running) toDB(t *testing.T) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := r.api.DialContext(t.Context(), "tcp", netip.AddrPortFrom(r.db.IP4, 5432).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	in := bufio.NewReader(conn)
	if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, "shop db") {
		t.Fatalf("db greets with %q, %v", line, err)
	}
	return conn, in
}

// put stores an order over an open connection.
func put(t *testing.T, conn net.Conn, in *bufio.Reader, order string) {
	t.Helper()
	if _, err := fmt.Fprintf(conn, "PUT %s\n", order); err != nil {
		t.Error(err)
	}
	if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "+ ") {
		t.Errorf("PUT %s: %q, %v", order, line, err)
	}
}

func (r *running) testContainerEncryption(t *testing.T) {
	wire := r.Capture(r.db)
	conn, in := r.toDB(t)
	put(t, conn, in, "secret-order")
	conn.Close()
	wire.Stop()
	if wire.Contains([]byte("secret-order")) {
		t.Error("the order passed in the clear")
	}
	streams := wire.Streams(5432, 4)
	if len(streams) == 0 {
		t.Errorf("no stream from port 5432 among %d frames", wire.Frames())
	}
	for flow, sent := range streams {
		if hello, err := lab.ParseServerHello(sent); err != nil || hello.Version != 0x0304 {
			t.Errorf("%v: ServerHello is %x, %v, want TLS 1.3", flow, hello, err)
		}
	}
}

// testQuit runs the report: its first connection finds a proxy; the pod would never end, but for POST /quit.
func (r *running) testQuit(t *testing.T) {
	p := r.report(t, "secret-order")
	proxy := p.Container(api.ProxyName)
	if !proxy.Running() {
		t.Fatal("the proxy has ended by itself")
	}
	resp, err := p.HTTP().Post(fmt.Sprintf("http://127.0.0.1:%d/quit", api.AdminPort), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("POST /quit: %s", resp.Status)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if code, err := proxy.Wait(ctx); err != nil || code != 0 {
		t.Errorf("the proxy ended with %d, %v, want 0: the Job would count as failed", code, err)
	}
}

// testContainerStop ends api's pod, app and proxy at once, with nothing under way: the proxy still serves what an app
// opens that has work to finish.
func (r *running) testContainerStop(t *testing.T) {
	type result struct {
		codes map[string]int
		err   error
	}
	stopped := make(chan result, 1)
	go func() {
		codes, err := r.api.Stop()
		stopped <- result{codes, err}
	}()
	time.Sleep(podplan.DefaultDrainDelay - 2*time.Second) // a proxy without its preStop hook has ended by now
	if r.api.Container("api").Running() {
		t.Error("api's app runs on: this test shows nothing")
	}
	held, in := r.toDB(t)
	time.Sleep(5 * time.Second) // the delay is over, and a moment of quiet would be
	put(t, held, in, "late-order")
	late, lateIn := r.toDB(t)
	put(t, late, lateIn, "later-order")
	answer, err := speak(t, r.db, netip.AddrPortFrom(r.api.IP4, 8080), nil, request)
	lab.WantRefused(t, "a new client of a pod that ends", answer, err)
	select {
	case got := <-stopped:
		t.Fatalf("the pod has ended (%v, %v) while its connections were open", got.codes, got.err)
	default:
	}
	held.Close()
	late.Close()
	select {
	case got := <-stopped:
		if want := map[string]int{"api": 0, api.ProxyName: 0}; got.err != nil || !cmp.Equal(got.codes, want) {
			t.Errorf("the pod ended with %v, %v, want %v", got.codes, got.err, want)
		}
	case <-time.After(10 * time.Second):
		t.Error("the pod does not end")
	}
}
