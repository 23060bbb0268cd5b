//go:build e2e && linux

package shop

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
)

// outside is an api with its db in one pod, not in the mesh.
const outside = `
apiVersion: v1
kind: Pod
metadata: {name: legacy, labels: {app: legacy}}
spec:
  automountServiceAccountToken: false
  containers:
    - {name: db, image: "` + example.AppImage + `", args: [db]}
    - name: api
      image: "` + example.AppImage + `"
      args: [api]
      env: [{name: DB_ADDR, value: "127.0.0.1:5432"}]
      readinessProbe: {httpGet: {path: /readyz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: legacy}
spec: {selector: {app: legacy}, ports: [{port: 8080}]}
`

const (
	namespace = "acme-shop"
	stranger  = "outside"
)

// TestShop deploys the rendered shop once; the steps look at it from several sides.
func TestShop(t *testing.T) {
	stage.NewNamespace(t, stranger)
	stage.Must(t, outside, "-n", stranger, "apply", "-f", "-")
	stage.NewNamespace(t, namespace)
	e := example.Copy(t, "../../../examples/shop")
	e.Issue(t, time.Now().Add(-20*24*time.Hour)) // 30 days valid, due in the last 15: valid, and due
	stage.Must(t, e.IdentitySecret(namespace), "apply", "-f", "-")
	stage.Must(t, e.Render(t), "apply", "-f", "-")
	for _, workload := range []string{"statefulset/acme-db", "deployment/acme-api", "deployment/acme-web"} {
		stage.Must(t, "", "-n", namespace, "rollout", "status", workload, "--timeout=90s")
	}
	stage.Must(t, "", "-n", stranger, "wait", "--for=condition=Ready", "pod/legacy", "--timeout=60s")
	// A pod is ready a moment before kube-proxy leads its Service to it.
	stage.Poll(t, 30*time.Second, func() error {
		_, err := stage.Kubectl("", "get", "--raw", "/api/v1/namespaces/"+namespace+"/services/acme-web:http/proxy/")
		return err
	})
	t.Run("init prints its rules", func(t *testing.T) {
		rules := stage.Must(t, "", "-n", namespace, "logs", "statefulset/acme-db", "-c", api.InitName)
		wantChains(t, rules)
	})
	t.Run("traffic between pods is encrypted", testEncryption)
	t.Run("job from the CronJob completes", testJob)
	t.Run("strangers are refused and plain pods reachable", testOutside)
	t.Run("renewal reaches running pods", func(t *testing.T) { testRenewal(t, e) })
	t.Run("nothing restarted", testNoRestarts)
}

func wantChains(t *testing.T, rules string) {
	t.Helper()
	for _, chain := range []string{"chain prerouting", "chain output"} {
		if !strings.Contains(rules, chain) {
			t.Errorf("init printed no %q:\n%s", chain, rules)
		}
	}
}

// testEncryption writes an order and looks for it among all packets of this machine, when the pods are here, and in the
// proxies' metrics.
func testEncryption(t *testing.T) {
	const marker = "secret-order-on-a-real-cluster"
	pods := podIPs(t)
	capture := captureHere(t, pods)
	stage.Must(t, marker, "create", "--raw", "/api/v1/namespaces/"+namespace+"/services/acme-web:http/proxy/", "-f", "-")
	if page := stage.Must(t, "", "get", "--raw", "/api/v1/namespaces/"+namespace+"/services/acme-web:http/proxy/"); !strings.Contains(page, marker) {
		t.Errorf("the page does not show the order: %s", page)
	}
	if capture != nil {
		capture.Stop()
		wantEncrypted(t, capture, pods, marker)
	}
	for pod := range pods {
		if strings.HasPrefix(pod, "acme-web") { // permissive: the order came in the clear
			continue
		}
		metrics := stage.Metrics(t, namespace, pod)
		if n := stage.Opened(t, metrics, "inbound", "mutual_tls"); n == 0 {
			t.Errorf("%s: no connection by mutual TLS arrived:\n%s", pod, metrics)
		}
		if n := stage.Opened(t, metrics, "inbound", "plaintext"); n > 0 {
			t.Errorf("%s: %v connections arrived in the clear", pod, n)
		}
	}
	log := stage.Must(t, "", "-n", namespace, "logs", "acme-db-0", "-c", api.ProxyName)
	if want := "spiffe://cluster.local/ns/acme-shop/deployment/acme-api"; !strings.Contains(log, want) {
		t.Errorf("the log of db's proxy names no %s:\n%s", want, log)
	}
}

// captureHere captures when the pods are on this machine, and else returns nil.
func captureHere(t *testing.T, pods map[string]netip.Addr) *lab.Capture {
	t.Helper()
	if !stage.Here(t, slices.Collect(maps.Values(pods))...) {
		return nil
	}
	capture, err := lab.CaptureHost(t)
	if err != nil {
		t.Fatalf("the pods are on this machine, so their packets can be read by root: %v", err)
	}
	return capture
}

// wantEncrypted wants the marker on its way to and from web's permissive port, the control, and nowhere else.
func wantEncrypted(t *testing.T, c *lab.Capture, pods map[string]netip.Addr, marker string) {
	t.Helper()
	ofWeb := func(a netip.AddrPort) bool {
		for name, ip := range pods {
			if strings.HasPrefix(name, "acme-web") && a == netip.AddrPortFrom(ip, 8080) {
				return true
			}
		}
		return false
	}
	control := 0
	for _, flow := range c.Carriers([]byte(marker)) {
		if ofWeb(flow.To) || ofWeb(flow.From) {
			control++
			continue
		}
		t.Errorf("the order passed in the clear from %s to %s", flow.From, flow.To)
	}
	if control == 0 {
		t.Errorf("the control, the order on its way to web's permissive port, was not seen among %d frames: this test could not fail", c.Frames())
	}
	for _, port := range []uint16{8080, 5432} {
		handshakes := 0
		for flow, sent := range c.Streams(port, 0) {
			if ofWeb(flow.From) {
				continue
			}
			if hello, err := lab.ParseServerHello(sent); err == nil && hello.Version == 0x0304 {
				handshakes++
			}
		}
		if handshakes == 0 {
			t.Errorf("no TLS 1.3 handshake from port %d", port)
		}
	}
}

// testRenewal commits renewed certificates, as CI would, and waits until the kubelet has swapped them and the proxies
// serve them.
func testRenewal(t *testing.T, e *example.Example) {
	const expiry = "meshless_leaf_not_after_timestamp_seconds"
	pods, before := podIPs(t), map[string]float64{}
	for pod := range pods {
		before[pod] = stage.Metric(t, stage.Metrics(t, namespace, pod), expiry)
	}
	e.Issue(t, time.Now())
	stage.Must(t, e.Render(t), "apply", "-f", "-")
	for pod := range pods {
		stage.Poll(t, 2*time.Minute, func() error {
			if stage.Metric(t, stage.Metrics(t, namespace, pod), expiry) <= before[pod] {
				return fmt.Errorf("%s still serves the certificate that expires at %v", pod, before[pod])
			}
			return nil
		})
	}
	if now := podIPs(t); !maps.Equal(pods, now) {
		t.Errorf("renewal replaced pods: %v are now %v", pods, now)
	}
	if page := stage.Must(t, "", "get", "--raw", "/api/v1/namespaces/"+namespace+"/services/acme-web:http/proxy/"); !strings.Contains(page, "Orders") {
		t.Errorf("after the renewal the page is %s", page)
	}
}

// testJob lets the report run in the mesh, against the mesh and against a plain pod.
func testJob(t *testing.T) {
	legacy := clusterIP(t, stranger, "legacy") + ":8080"
	for name, change := range map[string]func(string) string{
		"report-now":   func(job string) string { return job },
		"report-plain": func(job string) string { return strings.ReplaceAll(job, "acme-api:8080", legacy) },
	} {
		job := stage.Must(t, "", "-n", namespace, "create", "job", name, "--from=cronjob/acme-report", "--dry-run=client", "-o", "json")
		stage.Must(t, change(job), "-n", namespace, "apply", "-f", "-")
		stage.Must(t, "", "-n", namespace, "wait", "--for=condition=complete", "job/"+name, "--timeout=90s")
		if out := stage.Must(t, "", "-n", namespace, "logs", "job/"+name, "-c", "report"); !strings.Contains(out, "orders so far") {
			t.Errorf("%s printed %q", name, out)
		}
	}
}

// testOutside lets the same report run outside the mesh: refused by api, and, as the control, answered by a plain pod.
func testOutside(t *testing.T) {
	api, legacy := clusterIP(t, namespace, "acme-api")+":8080", clusterIP(t, stranger, "legacy")+":8080"
	for _, test := range []struct {
		name, namespace, api, phase string
	}{
		{"stranger", stranger, api, "Failed"},
		{"impostor", namespace, api, "Failed"}, // in the namespace, but without a sidecar
		{"neighbour", stranger, legacy, "Succeeded"},
	} {
		stage.Must(t, "", "-n", test.namespace, "run", test.name, "--image="+example.AppImage, "--restart=Never", "--env=API_ADDR="+test.api, "--", "report")
		stage.Must(t, "", "-n", test.namespace, "wait", "--for=jsonpath={.status.phase}="+test.phase, "pod/"+test.name, "--timeout=60s")
		if out := stage.Must(t, "", "-n", test.namespace, "logs", test.name); strings.Contains(out, "orders so far") != (test.phase == "Succeeded") {
			t.Errorf("%s printed %q", test.name, out)
		}
	}
}

func testNoRestarts(t *testing.T) {
	pods := stage.Pods(t, namespace, "app.kubernetes.io/part-of=shop")
	stage.WantNoRestarts(t, pods)
	if len(pods) < 4 {
		t.Errorf("%d pods, want db, api and two of web", len(pods))
	}
}

// podIPs are the addresses of the shop's serving pods by name.
func podIPs(t *testing.T) map[string]netip.Addr {
	t.Helper()
	ips := map[string]netip.Addr{}
	out := stage.Must(t, "", "-n", namespace, "get", "pods", "-l", "app.kubernetes.io/part-of=shop,app.kubernetes.io/name!=report",
		"-o", `jsonpath={range .items[*]}{.metadata.name}={.status.podIP}{"\n"}{end}`)
	for line := range strings.FieldsSeq(out) {
		name, ip, _ := strings.Cut(line, "=")
		addr, err := netip.ParseAddr(ip)
		if err != nil {
			t.Fatalf("pod %s: %v", name, err)
		}
		ips[name] = addr
	}
	return ips
}

func clusterIP(t *testing.T, namespace, name string) string {
	t.Helper()
	return stage.Must(t, "", "-n", namespace, "get", "service", name, "-o", "jsonpath={.spec.clusterIP}")
}
