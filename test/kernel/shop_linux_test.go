package kernel

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
)

// outside is what has nothing to do with the mesh.
const outside = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: legacy, namespace: outside}
spec:
  selector: {matchLabels: {app: legacy}}
  template:
    metadata: {labels: {app: legacy}}
    spec:
      containers: [{name: legacy, image: "` + example.AppImage + `", args: [db], ports: [{containerPort: 5432}], readinessProbe: {tcpSocket: {port: 5432}}}]
---
apiVersion: v1
kind: Service
metadata: {name: legacy, namespace: outside}
spec: {selector: {app: legacy}, ports: [{port: 5432}]}
`

// running is the shop in the lab, with a client outside the mesh.
type running struct {
	*lab.Lab
	shop                      *example.Example
	objects                   *lab.Objects
	db, api, web, legacy, out *lab.Pod
}

// startShop issues certificates at the given times, one after the other, renders, and starts every pod.
func startShop(t *testing.T, issued ...time.Time) *running {
	t.Helper()
	return startShopIn(t, lab.NewMeshless(t, nil), "", issued...)
}

// startShopIn is startShop in a lab, and with more lines of the config's spec.
func startShopIn(t *testing.T, l *lab.Lab, config string, issued ...time.Time) *running {
	t.Helper()
	r := applyShop(t, l, config, issued...)
	if err := r.Apply(parse(t, outside)); err != nil {
		t.Fatal(err)
	}
	r.out = r.AddPod("outside", "client")
	r.legacy = r.StartPod("Deployment/outside/legacy")
	r.db = r.StartPod("StatefulSet/acme-shop/acme-db")
	r.api = r.StartPod("Deployment/acme-shop/acme-api")
	r.web = r.StartPod("Deployment/acme-shop/acme-web")
	return r
}

// applyShop is startShopIn without any pod.
func applyShop(t *testing.T, l *lab.Lab, config string, issued ...time.Time) *running {
	t.Helper()
	r := &running{Lab: l, shop: example.Copy(t, "../../examples/shop")}
	if config != "" {
		r.shop.Edit(t, "mtls.yaml", func(text string) string { return text + config })
	}
	for _, at := range issued {
		r.shop.Issue(t, at)
	}
	r.objects = r.render(t)
	if err := r.Apply(r.objects); err != nil {
		t.Fatal(err)
	}
	return r
}

// render is the rendered shop, with the Secret that the platform keeps in its namespace.
func (r *running) render(t *testing.T) *lab.Objects {
	t.Helper()
	return parse(t, r.shop.Render(t)+"\n---\n"+r.shop.IdentitySecret("acme-shop"))
}

func parse(t *testing.T, manifests string) *lab.Objects {
	t.Helper()
	objects, err := lab.Parse([]byte(manifests))
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// id is the SPIFFE ID of a workload of the shop, given as kind/name.
func id(workload string) string { return "spiffe://cluster.local/ns/acme-shop/" + workload }

// leaf is the certificate of a workload with its key.
func (r *running) leaf(t *testing.T, workload string) tls.Certificate {
	t.Helper()
	for _, secret := range r.objects.Secrets {
		if secret.Annotations["meshless.dev/identity"] == id(workload) {
			return r.shop.Leaf(t, secret)
		}
	}
	t.Fatalf("no Secret of %s among %d", id(workload), len(r.objects.Secrets))
	return tls.Certificate{}
}

// TestShop walks one running shop from its first request to its end; the steps build on each other.
func TestShop(t *testing.T) {
	day := 24 * time.Hour
	// The CA has signed for 100 of its 90 days, so that the next render changes it. The leaves are 20 of 30 days old:
	// valid, and due.
	r := startShop(t, time.Now().Add(-100*day), time.Now().Add(-20*day))
	t.Run("containers are confined", r.testConfinement)
	t.Run("IPv4 requests arrive encrypted", func(t *testing.T) { r.testEncryption(t, 4) })
	t.Run("IPv6 requests arrive encrypted", func(t *testing.T) { r.testEncryption(t, 6) })
	t.Run("members use TLS on a permissive port", r.testPermissive)
	t.Run("strict port refuses strangers", r.testStrangers)
	t.Run("policy refuses members", r.testPolicy)
	t.Run("client refuses wrong server", r.testWrongServer)
	t.Run("plain destinations stay reachable", r.testPassthrough)
	t.Run("job ends by itself", r.testJob)
	t.Run("renewal loses no request", r.testRenewal)
	t.Run("probes tell the truth", r.testProbes)
	t.Run("SIGTERM ends cleanly", r.testStop)
}

func (r *running) testConfinement(t *testing.T) {
	for _, p := range []*lab.Pod{r.db, r.api, r.web} {
		proxy := p.Container(api.ProxyName)
		none := "0000000000000000"
		for key, want := range map[string]string{"CapEff": none, "CapPrm": none, "CapBnd": none, "CapAmb": none, "NoNewPrivs": "1", "Uid": "15000\t15000\t15000\t15000"} {
			if got, err := proxy.Status(key); err != nil || got != want {
				t.Errorf("%s: proxy's %s is %q (%v), want %q", p.Name, key, got, err, want)
			}
		}
		for _, chain := range []string{"chain prerouting", "chain output"} {
			if printed := p.Container(api.InitName).Log(); !strings.Contains(printed, chain) {
				t.Errorf("%s: init printed no %q:\n%s", p.Name, chain, printed)
			}
		}
	}
}

// testEncryption sends a secret from outside through web, api and db, and looks for it on the wires of each.
func (r *running) testEncryption(t *testing.T, family int) {
	r.OnlyFamily(family)
	defer r.OnlyFamily(0)
	marker := fmt.Sprintf("secret-order-over-ipv%d", family)
	control, toAPI, toDB := r.Capture(r.out), r.Capture(r.api), r.Capture(r.db)
	if got := r.post(t, family, marker); !strings.Contains(got, "Thank you") {
		t.Errorf("POST / answered %q", got)
	}
	if got := r.get(t, family); !strings.Contains(got, marker) {
		t.Errorf("GET / answered %q, want it to hold %q", got, marker)
	}
	for _, c := range []*lab.Capture{control, toAPI, toDB} {
		c.Stop()
	}
	if !control.Contains([]byte(marker)) {
		t.Error("the control, a connection outside the mesh, does not show the secret: this test could not fail")
	}
	for name, wire := range map[string]struct {
		*lab.Capture
		port uint16
	}{"api": {toAPI, 8080}, "db": {toDB, 5432}} {
		if wire.Contains([]byte(marker)) {
			t.Errorf("%s: the secret passed in the clear", name)
		}
		streams := wire.Streams(wire.port, family)
		if len(streams) == 0 {
			t.Errorf("%s: no stream of IPv%d from port %d among %d frames", name, family, wire.port, wire.Frames())
		}
		for flow, sent := range streams {
			hello, err := lab.ParseServerHello(sent)
			if want := (lab.ServerHello{Version: 0x0304, Group: 0x11ec}); err != nil || hello != want {
				t.Errorf("%s: %v: ServerHello is %x (%v), want TLS 1.3 with X25519MLKEM768, %x", name, flow, hello, err, want)
			}
		}
	}
}

// testPermissive lets a member ask web, whose port takes plaintext too: between members it is TLS all the same.
func (r *running) testPermissive(t *testing.T) {
	for _, family := range []int{4, 6} {
		wire := r.Capture(r.web)
		if err := ask(r.api.HTTP(), r.webURL(family)+"healthz"); err != nil {
			t.Errorf("api asks web over IPv%d: %v", family, err)
		}
		wire.Stop()
		found := 0
		for flow, sent := range wire.Streams(8080, family) {
			if flow.To.Addr() != r.api.IP(family) {
				continue
			}
			found++
			if hello, err := lab.ParseServerHello(sent); err != nil || hello.Version != 0x0304 {
				t.Errorf("%v: ServerHello is %x, %v, want TLS 1.3", flow, hello, err)
			}
		}
		if found == 0 {
			t.Errorf("no answer of web to api over IPv%d among %d frames", family, wire.Frames())
		}
	}
}

// testPassthrough dials what is not in the mesh from a pod that is.
func (r *running) testPassthrough(t *testing.T) {
	for _, family := range []int{4, 6} {
		for _, ip := range []netip.Addr{r.ServiceIP("outside", "legacy", family), r.legacy.IP(family)} {
			if got, err := greeting(t, r.web, ip); err != nil || !strings.Contains(got, "shop db") {
				t.Errorf("legacy at %s greets with %q, %v", ip, got, err)
			}
		}
	}
}

// report runs the report until its app has ended, and wants it to have printed an order.
func (r *running) report(t *testing.T, order string) *lab.Pod {
	t.Helper()
	p := r.StartPod("CronJob/acme-shop/acme-report")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if code, err := p.Container("report").Wait(ctx); err != nil || code != 0 || !strings.Contains(p.Container("report").Log(), order) {
		t.Errorf("report ended with %d, %v and printed %q", code, err, p.Container("report").Log())
	}
	return p
}

// testJob runs the report: the app ends by itself, the native sidecar does not keep the pod.
func (r *running) testJob(t *testing.T) {
	p := r.report(t, "secret-order-over-ipv4")
	if codes, err := p.StopSidecars(); err != nil || !cmp.Equal(codes, map[string]int{api.ProxyName: 0}) {
		t.Errorf("sidecars ended with %v, %v, want exit code 0", codes, err)
	}
}

// testProbes kills two apps: a probe that the proxy answers by itself would not notice.
func (r *running) testProbes(t *testing.T) {
	probes := []struct {
		pod              *lab.Pod
		container, field string
	}{
		{r.api, "api", "startupProbe"}, {r.api, "api", "readinessProbe"}, {r.api, "api", "livenessProbe"}, {r.db, "db", "readinessProbe"},
		{r.web, "web", "readinessProbe"}, {r.web, "web", "livenessProbe"},
	}
	for _, p := range probes {
		if err := p.pod.Probe(t.Context(), p.container, p.field); err != nil {
			t.Errorf("%s of %s fails although the app is well: %v", p.field, p.container, err)
		}
	}
	r.api.Container("api").Kill()
	r.db.Container("db").Kill()
	for _, p := range probes {
		if err := p.pod.Probe(t.Context(), p.container, p.field); (err == nil) != (p.pod == r.web) {
			t.Errorf("%s of %s after api and db were killed: %v", p.field, p.container, err)
		}
		if err := p.pod.Probe(t.Context(), api.ProxyName, "startupProbe"); err != nil {
			t.Errorf("the proxy of %s is not well without its app: %v", p.container, err)
		}
	}
}

// testStop ends web as the kubelet does, preStop handler first, and the sidecars of the others.
func (r *running) testStop(t *testing.T) {
	started := time.Now()
	if codes, err := r.web.Stop(); err != nil || !cmp.Equal(codes, map[string]int{"web": 0, api.ProxyName: 0}) {
		t.Errorf("web ended with %v, %v, want exit codes 0", codes, err)
	}
	if took := time.Since(started); took < 2*time.Second {
		t.Errorf("web ended after %s: its preStop handler, which takes 2 s, was not performed", took)
	}
	for _, p := range []*lab.Pod{r.api, r.db} {
		if codes, err := p.StopSidecars(); err != nil || codes[api.ProxyName] != 0 {
			t.Errorf("%s ended with %v, %v, want exit code 0", p.Name, codes, err)
		}
	}
}

// webURL is the shop's page by its Service address.
func (r *running) webURL(family int) string {
	return "http://" + netip.AddrPortFrom(r.ServiceIP("acme-shop", "acme-web", family), 80).String() + "/"
}

func (r *running) post(t *testing.T, family int, order string) string {
	t.Helper()
	return answer(t, func() (*http.Response, error) {
		return r.out.HTTP().Post(r.webURL(family), "text/plain", strings.NewReader(order))
	})
}

func (r *running) get(t *testing.T, family int) string {
	t.Helper()
	return answer(t, func() (*http.Response, error) { return r.out.HTTP().Get(r.webURL(family)) })
}

func answer(t *testing.T, ask func() (*http.Response, error)) string {
	t.Helper()
	resp, err := ask()
	if err != nil {
		t.Errorf("request: %v", err)
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("request: %s, %v: %s", resp.Status, err, bytes.TrimSpace(body))
	}
	return string(body)
}
