package kernel

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/lab"
)

// TestConnectionsOutliveTheirLeaves: connections of web to api, whose Service has two pods, go on beyond the end of the
// leaves that they began with, both families, since both were renewed meanwhile. So each renewal met the pod that has
// the connection, and not another of the Service.
func TestConnectionsOutliveTheirLeaves(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes: leaves end by the real clock")
	}
	const left = 100 * time.Second // of the leaves; all of it is of the last tenth
	r := applyShop(t, lab.NewMeshless(t, nil), "", time.Now().Add(left-30*24*time.Hour))
	end := r.leaf(t, "deployment/acme-api").Leaf.NotAfter
	r.out = r.AddPod("outside", "client")
	r.db = r.StartPod("StatefulSet/acme-shop/acme-db")
	r.api = r.StartPod("Deployment/acme-shop/acme-api")
	second := r.objects.Workloads["Deployment/acme-shop/acme-api"]
	second.Name += "-second" // of the pod; its identity is that of the workload
	r.objects.Workloads["Deployment/acme-shop/acme-api"] = second
	if err := r.Apply(r.objects); err != nil {
		t.Fatal(err)
	}
	servers := []*lab.Pod{r.api, r.StartPod("Deployment/acme-shop/acme-api")}
	r.web = r.StartPod("Deployment/acme-shop/acme-web")

	var held []net.Conn
	for i, p := range servers {
		// a Service of the lab leads to its first pod that is ready: in the end to another than half of the connections
		servers[0].SetReady(i == 0)
		for _, family := range []int{4, 6} {
			at := netip.AddrPortFrom(r.ServiceIP("acme-shop", "acme-api", family), 8080)
			for range 3 {
				conn, err := r.web.DialContext(t.Context(), "tcp", at.String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				held = append(held, conn)
				askOver(t, conn)
			}
		}
		if n := r.metric(t, p, `meshless_connections_open{direction="inbound",security="mutual_tls"}`); n != "6" {
			t.Fatalf("%s has %s connections, want 6", p.Name, n)
		}
	}
	servers[0].SetReady(true)
	r.shop.Issue(t, time.Now())
	if err := r.Apply(r.render(t)); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*lab.Pod{r.db, r.web, servers[0], servers[1]} {
		if err := p.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	// connections are verified every minute, so that of the end itself has been by then
	for over := end.Add(70 * time.Second); time.Now().Before(over); time.Sleep(5 * time.Second) {
		for i, conn := range held {
			if !askOver(t, conn) {
				t.Fatalf("connection %d ended %s after the leaf", i, time.Since(end))
			}
		}
	}
	for _, p := range servers {
		if n := r.metric(t, p, `meshless_renewals_total{direction="inbound",result="renewed"}`); n == "0" {
			t.Errorf("%s saw no renewal", p.Name)
		}
	}
}

// askOver sends a request over a connection and reads the answer.
func askOver(t *testing.T, conn net.Conn) bool {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: acme-api\r\n\r\n"); err != nil {
		t.Error(err)
		return false
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Error(err)
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil
}

// metric is the value of a series of a pod's proxy.
func (r *running) metric(t *testing.T, p *lab.Pod, series string) string {
	t.Helper()
	resp, err := r.out.HTTP().Get(fmt.Sprintf("http://%s/metrics", netip.AddrPortFrom(p.IP4, api.MetricsPort)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("%s has no series %s", p.Name, series)
	return ""
}
