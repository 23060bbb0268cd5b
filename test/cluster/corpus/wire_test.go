//go:build e2e && linux

package corpus

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/app/client"
	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
)

// outside is a namespace without a mesh, with a pod that calls another, with the marker: the control of what is seen on
// the wire.
const (
	outside   = "corpus-outside"
	plainPort = 8080
)

const outsidePods = `
apiVersion: v1
kind: Pod
metadata: {name: plain, labels: {app: plain}}
spec:
  automountServiceAccountToken: false
  containers:
    - name: app
      image: ` + appImage + `
      imagePullPolicy: Never
      args: [serve, --port, "8080"]
      readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: plain}
spec: {selector: {app: plain}, ports: [{port: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: stranger}
spec:
  automountServiceAccountToken: false
  containers:
    - name: app
      image: ` + appImage + `
      imagePullPolicy: Never
      args: [standin]
      env: [{name: PLAIN_ADDR, value: "plain:8080"}, {name: MARKER, value: ` + marker + `}]
`

func deployOutside(t *testing.T) {
	t.Helper()
	stage.NewNamespace(t, outside)
	stage.Must(t, outsidePods, "-n", outside, "apply", "-f", "-")
	stage.Must(t, "", "-n", outside, "wait", "--for=condition=Ready", "pod/plain", "pod/stranger", "--timeout=60s")
}

// testEncryption looks for the marker among all packets of this machine, when the pods are here.
func (s *stood) testEncryption(t *testing.T) {
	ips := s.ips(t)
	if !stage.Here(t, slices.Collect(maps.Values(ips))...) {
		return
	}
	var capture *lab.Capture
	for try := 1; ; try++ {
		var err error
		if capture, err = lab.CaptureHost(t); err != nil {
			t.Fatalf("the pods are on this machine, so their packets can be read by root: %v", err)
		}
		// Of four calls more, two are on connections of their own, so their handshakes are seen.
		s.waitForCalls(t, s.outcomes(t), 4)
		capture.Stop()
		if capture.Missed() == 0 {
			break
		}
		if try == 3 {
			t.Fatalf("%d frames were missed, in the third try as well: what is not seen proves nothing", capture.Missed())
		}
	}
	s.wantNoMarker(t, capture)
	s.wantHandshakes(t, capture, ips)
}

// wantNoMarker wants the marker between the pods outside the mesh, the control, and nowhere else. The API server, whose
// pods' environments hold it, talks to etcd over the loopback interface of the machine.
func (s *stood) wantNoMarker(t *testing.T, capture *lab.Capture) {
	t.Helper()
	var control netip.Addr
	if err := control.UnmarshalText([]byte(stage.Must(t, "", "-n", outside, "get", "pod", "plain", "-o", "jsonpath={.status.podIP}"))); err != nil {
		t.Fatal(err)
	}
	var clusterIP netip.Addr
	if err := clusterIP.UnmarshalText([]byte(stage.Must(t, "", "-n", outside, "get", "service", "plain", "-o", "jsonpath={.spec.clusterIP}"))); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, flow := range capture.Carriers([]byte(marker)) {
		switch {
		case flow.To == netip.AddrPortFrom(control, plainPort) || flow.To == netip.AddrPortFrom(clusterIP, plainPort):
			seen++
		case flow.From.Addr().IsLoopback() && flow.To.Addr().IsLoopback():
		default:
			t.Errorf("a call passed in the clear from %s to %s", flow.From, flow.To)
		}
	}
	if seen == 0 {
		t.Errorf("the control, calls between pods outside the mesh, was not seen among %d frames: this test could not fail", capture.Frames())
	}
	t.Logf("%d frames, the marker in %d flows outside the mesh", capture.Frames(), seen)
}

// wantHandshakes wants a TLS 1.3 handshake of each pair: the server's half, from a pod behind the Service to the pod
// that calls.
func (s *stood) wantHandshakes(t *testing.T, capture *lab.Capture, ips map[string]netip.Addr) {
	t.Helper()
	for _, p := range s.pairs {
		port := s.targetPort(t, p.service())
		found := false
		for flow, sent := range capture.Streams(port, 0) {
			fromServer := slices.ContainsFunc(s.behind(p.service()), func(name string) bool { return ips[name] == flow.From.Addr() })
			if !fromServer || flow.To.Addr() != ips[p.from] {
				continue
			}
			if hello, err := lab.ParseServerHello(sent); err == nil && hello.Version == 0x0304 {
				found = true
			}
		}
		if !found {
			t.Errorf("no TLS 1.3 handshake from %s to %s, port %d of the pod", p.from, p.to, port)
		}
	}
}

// targetPort is the only port of the pods behind a Service. Neither application has a named one.
func (s *stood) targetPort(t *testing.T, service string) uint16 {
	t.Helper()
	spec := s.services[service].Spec
	if len(spec.Ports) != 1 || spec.Ports[0].TargetPort.StrVal != "" {
		t.Fatalf("Service %s: this test knows Services with one port that is a number, not %v", service, spec.Ports)
	}
	if port := spec.Ports[0].TargetPort.IntValue(); port != 0 {
		return uint16(port)
	}
	return uint16(spec.Ports[0].Port)
}

// ips are the addresses of the pods by Deployment.
func (s *stood) ips(t *testing.T) map[string]netip.Addr {
	t.Helper()
	ips := map[string]netip.Addr{}
	for name, pod := range s.pods(t) {
		ip, err := netip.ParseAddr(pod.Status.PodIP)
		if err != nil {
			t.Fatalf("pod %s: %v", pod.Name, err)
		}
		ips[name] = ip
	}
	return ips
}

// testMetrics wants nothing but mutual TLS, either way, and no handshake that failed.
func (s *stood) testMetrics(t *testing.T) {
	var metrics map[string]string
	stage.Eventually(t, func() error { // which of the pods behind a Service a connection goes to is chance
		metrics = s.metrics(t)
		return s.silent(t, metrics)
	})
	for name := range s.deployments {
		for _, of := range []struct{ direction, security, means string }{
			{"inbound", "plaintext", "arrived in the clear"},
			{"inbound", "passthrough", "arrived from outside the mesh"},
			{"outbound", "plaintext", "left in the clear"},
			{"outbound", "passthrough", "left for a destination outside the mesh"},
		} {
			if n := stage.Opened(t, metrics[name], of.direction, of.security); n > 0 {
				t.Errorf("%s: %v connections %s", name, n, of.means)
			}
		}
		for series, means := range map[string]string{"meshless_handshake_failures_total": "failed in their handshake", "meshless_denials_total": "were denied"} {
			if n := stage.Metric(t, metrics[name], series); n > 0 {
				t.Errorf("%s: %v connections %s", name, n, means)
			}
		}
	}
}

// silent is an error while a proxy that should have has opened no connection by mutual TLS.
func (s *stood) silent(t *testing.T, metrics map[string]string) error {
	t.Helper()
	for _, p := range s.pairs {
		if stage.Opened(t, metrics[p.from], "outbound", "mutual_tls") == 0 {
			return fmt.Errorf("%s: no connection by mutual TLS left, though it calls %s", p.from, p.to)
		}
		for _, server := range s.behind(p.service()) {
			if stage.Opened(t, metrics[server], "inbound", "mutual_tls") == 0 {
				return fmt.Errorf("%s: no connection by mutual TLS arrived, though %s calls %s", server, p.from, p.to)
			}
		}
	}
	return nil
}

// testIdentities wants the log of a proxy behind each Service to name who called, as proved.
func (s *stood) testIdentities(t *testing.T) {
	logs := map[string]string{}
	for _, p := range s.pairs {
		var seen []string
		for _, server := range s.behind(p.service()) {
			if logs[server] == "" {
				logs[server] = stage.Must(t, "", "-n", s.name, "logs", "deployment/"+server, "-c", api.ProxyName)
			}
			seen = append(seen, logs[server])
		}
		if want := fmt.Sprintf(`"src_identity":"spiffe://cluster.local/ns/%s/deployment/%s"`, s.name, p.from); !strings.Contains(strings.Join(seen, ""), want) {
			t.Errorf("no proxy behind %s logged %s", p.service(), want)
		}
	}
}

// testStrangers knocks from a pod outside the mesh: at each Service, at each pod itself, and at the port that a
// LoadBalancer opens on the node.
func (s *stood) testStrangers(t *testing.T) {
	urls, ips := s.serviceURLs(t), s.ips(t)
	for name := range s.services {
		for _, server := range s.behind(name) {
			urls = append(urls, fmt.Sprintf("http://%s/", netip.AddrPortFrom(ips[server], s.targetPort(t, name))))
		}
	}
	slices.Sort(urls)
	control := fmt.Sprintf("http://plain.%s.svc.cluster.local:%d/", outside, plainPort)
	wantAnswers(t, append(slices.Compact(urls), control), func(url string) bool { return url == control })
}

// testPermissive does what the render advises where a Service of type LoadBalancer leads to a Strict port: with the
// annotation, people outside the mesh reach the frontend, those inside still by mutual TLS, and all other Services stay
// closed.
func (s *stood) testPermissive(t *testing.T, e *example.Example) {
	old := s.pods(t)["frontend"].Name
	s.annotate(t, "frontend", "meshless.dev/permissive-ports", "8080")
	e.Edit(t, "pod.yaml", func(string) string { return s.manifests(t) })
	stage.Must(t, e.Render(t), "apply", "-f", "-")
	stage.Must(t, "", "-n", s.name, "rollout", "status", "deployment/frontend", "--timeout=110s")
	stage.Must(t, "", "-n", s.name, "wait", "--for=delete", "pod/"+old, "--timeout=60s")
	open := []string{s.nodeURL(t, "frontend-external"), s.serviceURL("frontend"), s.serviceURL("frontend-external")}
	wantAnswers(t, s.serviceURLs(t), func(url string) bool { return slices.Contains(open, url) })
	before := s.waitForCalls(t, nil, 1)
	s.wantNoFailures(t, before, s.waitForCalls(t, before, 1))
	metrics := s.metrics(t)["frontend"]
	for _, security := range []string{"plaintext", "mutual_tls"} {
		if stage.Opened(t, metrics, "inbound", security) == 0 {
			t.Errorf("no connection by %s arrived at the permissive frontend", security)
		}
	}
}

// serviceURLs are all Services, and the ports that those of type LoadBalancer open on the node.
func (s *stood) serviceURLs(t *testing.T) []string {
	t.Helper()
	var urls []string
	for name, service := range s.services {
		urls = append(urls, s.serviceURL(name))
		if service.Spec.Type == corev1.ServiceTypeLoadBalancer {
			urls = append(urls, s.nodeURL(t, name))
		}
	}
	return urls
}

func (s *stood) serviceURL(name string) string {
	return fmt.Sprintf("http://%s:%d/", s.host(name), s.services[name].Spec.Ports[0].Port)
}

// nodeURL is the port that a Service opens on the node.
func (s *stood) nodeURL(t *testing.T, name string) string {
	t.Helper()
	port := stage.Must(t, "", "-n", s.name, "get", "service", name, "-o", "jsonpath={.spec.ports[0].nodePort}")
	host := stage.Must(t, "", "get", "nodes", "-o", `jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}`)
	return "http://" + net.JoinHostPort(host, port) + "/"
}

// wantAnswers calls each URL from outside the mesh, and wants those that are open to answer and all others to end the
// connection.
func wantAnswers(t *testing.T, urls []string, open func(url string) bool) {
	t.Helper()
	answered, refused := 0, 0
	for _, got := range fromOutside(t, urls) {
		switch {
		case open(got.URL) && got.Status == 200:
			answered++
		// A name that nobody has, or a time-out, would be no refusal.
		case !open(got.URL) && got.Status == 0 && (strings.Contains(got.Error, "reset by peer") || strings.Contains(got.Error, "EOF")):
			refused++
		default:
			t.Errorf("a stranger at %s (open: %v): status %d, error %q", got.URL, open(got.URL), got.Status, got.Error)
		}
	}
	if answered == 0 || refused == 0 {
		t.Errorf("of %d calls %d were answered and %d refused", len(urls), answered, refused)
	}
	t.Logf("refused at %d addresses, answered at %d", refused, answered)
}

// fromOutside calls each URL once from the pod outside the mesh.
func fromOutside(t *testing.T, urls []string) []stage.Answer {
	t.Helper()
	if len(urls) == 0 {
		return nil
	}
	return stage.Call(t, outside, "stranger", "app", urls...)
}

// metrics are the metrics of each Deployment's proxy. Their port is open to everyone, as is that of the probes.
func (s *stood) metrics(t *testing.T) map[string]string {
	t.Helper()
	var urls, names []string
	for name, ip := range s.ips(t) {
		names = append(names, name)
		urls = append(urls, fmt.Sprintf("http://%s/metrics", netip.AddrPortFrom(ip, api.MetricsPort)))
	}
	metrics := map[string]string{}
	for i, got := range fromOutside(t, urls) {
		if got.Error != "" || !strings.Contains(got.Body, "meshless_build_info") || len(got.Body) >= client.MaxBody {
			t.Fatalf("metrics of %s: status %d, error %q, %d bytes", names[i], got.Status, got.Error, len(got.Body))
		}
		metrics[names[i]] = got.Body
	}
	return metrics
}
