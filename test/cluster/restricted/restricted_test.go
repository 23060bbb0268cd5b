//go:build e2e && linux

package restricted

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/app/talk"
	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
)

// The namespaces of testdata/restricted.yaml, and that of a stranger.
const (
	without = "restricted"       // none of its workloads has redirect rules
	with    = "restricted-rules" // all have
	outside = "restricted-outside"
)

// markers are in the requests of the loads, and in the conversations.
var markers = []string{"the-marker-without-rules", "the-marker-with-rules", talk.MarkPrefix}

const config = `  redirect: {none: [{namespace: restricted}]}
`

// stranger is a client that is in no mesh.
const stranger = `
apiVersion: v1
kind: Pod
metadata: {name: stranger}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  containers: [{name: client, image: "meshless-test/app:latest", imagePullPolicy: IfNotPresent, args: [serve]}]
`

// room is the package, as it was applied last.
type room struct {
	folder   *example.Example
	rendered *stage.Rendered
}

// TestRestricted deploys the manifests once; the steps look at them, and change them.
func TestRestricted(t *testing.T) {
	enforcePolicies(t)
	for _, namespace := range []string{without, with, outside} {
		stage.NewNamespace(t, namespace)
	}
	stage.Must(t, stranger, "-n", outside, "apply", "-f", "-")
	wire := stage.WatchWire(t, outside, markers...)
	r := deploy(t)
	t.Run("the namespace takes no other pod", testEnforced)
	t.Run("every Service answers all, by mutual TLS", testServices)
	t.Run("each pod of a StatefulSet answers by its name and by its address", testMembers)
	t.Run("conversations of every kind, in both directions", testTalks)
	t.Run("Jobs end, and their proxies with them", testJobs)
	t.Run("init containers have the mesh, and native sidecars are of it", testInits)
	t.Run("a readiness failure takes a pod out of its Service", testReadiness)
	t.Run("names that cannot be protected have no address", testRefusedNames)
	t.Run("strangers are shut out by NetworkPolicies", testStranger)
	t.Run("NetworkPolicies of the package say what they said", testPolicies)
	t.Run("init says what is protected, and what is not", testInitLog)
	t.Run("nothing restarted", func(t *testing.T) {
		stage.WantNoRestarts(t, stage.Pods(t, without, "app"))
		stage.WantNoRestarts(t, stage.Pods(t, with, "app"))
	})
	t.Run("a renewal under load fails no request", r.testRenewal)
	t.Run("proxies and pods die, and all is well again", testChaos)
	t.Run("nothing passed in the clear", func(t *testing.T) {
		stage.WantEncrypted(t, without, "app in (load,web,member,talker,client)")
		stage.WantEncrypted(t, with, "app in (load,web,member,talker)")
		wire.WantSecret(t)
	})
}

// deploy issues, renders, verifies and applies the package of both namespaces, and waits until it runs.
func deploy(t *testing.T) *room {
	t.Helper()
	manifests, err := os.ReadFile("testdata/restricted.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r := &room{folder: stage.Package(t, "", string(manifests), config)}
	stage.Must(t, "", "label", "namespace", without, "pod-security.kubernetes.io/enforce=restricted")
	for _, namespace := range []string{without, with} {
		stage.Must(t, r.folder.IdentitySecret(namespace), "apply", "-f", "-")
	}
	r.folder.Issue(t, time.Now().Add(-time.Hour))
	r.apply(t)
	stage.Rollout(t, without, "deployment/web", "deployment/local", "deployment/many", "deployment/talker", "statefulset/member")
	stage.Rollout(t, with, "deployment/web", "deployment/talker", "statefulset/member")
	stage.Ready(t, without, "pod/client", "pod/load")
	stage.Ready(t, with, "pod/client", "pod/load", "pod/narrow")
	stage.Ready(t, outside, "pod/stranger")
	return r
}

func (r *room) apply(t *testing.T) {
	t.Helper()
	r.rendered = stage.Read(t, stage.Render(t, r.folder))
	stage.Must(t, r.rendered.Text, "apply", "-f", "-")
}

// testEnforced: the API server refuses the pod that the render would make with redirect rules.
func testEnforced(t *testing.T) {
	pod := strings.Replace(stranger, "args: [serve]", "args: [serve], securityContext: {capabilities: {add: [NET_ADMIN]}}", 1)
	out, err := stage.Kubectl(pod, "-n", without, "apply", "--dry-run=server", "-f", "-")
	if err == nil || !strings.Contains(err.Error(), `violates PodSecurity "restricted:latest"`) {
		t.Errorf("a pod with NET_ADMIN: %v %s, want it refused", err, out)
	}
	for _, pod := range stage.Pods(t, without, "app") {
		for _, c := range append(append([]corev1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...) {
			if s := c.SecurityContext; s == nil || s.Capabilities == nil || len(s.Capabilities.Add) > 0 {
				t.Errorf("%s, container %s: %+v, want no capability", pod.Name, c.Name, s)
			}
		}
	}
}

// reached is a call, and what must be seen of it at the server.
type reached struct {
	url, host string // host: how the name of the pod that answers begins
	port      int
	past      bool // the server's proxy was not involved
}

// wantReached calls from a pod of a namespace.
func wantReached(t *testing.T, namespace, pod, container string, calls []reached) {
	t.Helper()
	var urls []string
	for _, c := range calls {
		urls = append(urls, c.url)
	}
	for i, a := range stage.Call(t, namespace, pod, container, urls...) {
		c := calls[i]
		if a.Error != "" || !strings.HasPrefix(a.Host, c.host) || a.Port != c.port || byProxy(a) == c.past {
			t.Errorf("%s from %s of %s: got %+v, want port %d of %s*, past its proxy: %v", c.url, pod, namespace, a, c.port, c.host, c.past)
		}
	}
}

// podOf are the addresses of the pods of a name.
var podOf = map[string][]string{}

// byProxy tells whether the server's proxy brought a request: with rules from the client's stand-in, without from the
// pod itself, at its own address or at loopback.
func byProxy(a stage.Answer) bool {
	from, err := netip.ParseAddrPort(a.Remote)
	return a.ByProxy() || err == nil && (from.Addr().IsLoopback() || slices.Contains(podOf[a.Host], from.Addr().String()))
}

// learnPods notes the addresses of all pods.
func learnPods(t *testing.T) {
	t.Helper()
	for _, namespace := range []string{without, with} {
		for _, pod := range stage.Pods(t, namespace, "app") {
			podOf[pod.Name] = append(podOf[pod.Name], pod.Status.PodIP)
		}
	}
}

// testServices calls Services from pods of both kinds. That a server's proxy was reached by mutual TLS alone is seen
// from its metrics.
func testServices(t *testing.T) {
	learnPods(t)
	calls := []reached{
		{url: "http://web.restricted/", host: "web-", port: 8080},
		{url: "http://web.restricted.svc.cluster.local/", host: "web-", port: 8080},
		{url: "http://web.restricted-rules/", host: "web-", port: 8080},
		{url: "http://local.restricted:82/", host: "local-", port: 8002},
	}
	wantReached(t, without, "client", "client", append(calls, reached{url: "http://web/", host: "web-", port: 8080}))
	wantReached(t, without, "load", "load", []reached{{url: "http://web-pods:8080/", host: "web-", port: 8080}})
	wantReached(t, with, "client", "client", append(calls, []reached{
		{url: "http://web-pods.restricted:8080/", host: "web-", port: 8080},
		{url: "http://many.restricted:81/", host: "many-", port: 8001},
		{url: "http://many.restricted:83/", host: "many-", port: 8003, past: true},
		{url: "http://many.restricted:84/", host: "many-", port: 9001}, // a native sidecar of its own
	}...))
	wantOnlyMutualTLS(t, without, "app in (web,local,many)")
	wantOnlyMutualTLS(t, with, "app=web")
	if n := stage.OpenedBy(t, with, "client", "outbound", "plaintext"); n != 1 {
		t.Errorf("the client opened %v connections in the clear, want 1, to the port that opted out", n)
	}
}

// wantOnlyMutualTLS wants that the servers took connections by mutual TLS, and none in the clear.
func wantOnlyMutualTLS(t *testing.T, namespace, selector string) {
	t.Helper()
	taken := map[string]float64{}
	for _, pod := range stage.Pods(t, namespace, selector) {
		taken[pod.Labels["app"]] += stage.OpenedBy(t, namespace, pod.Name, "inbound", "mutual_tls")
		if n := stage.OpenedBy(t, namespace, pod.Name, "inbound", "plaintext"); n > 0 {
			t.Errorf("%s of %s took %v connections in the clear", pod.Name, namespace, n)
		}
	}
	for app, n := range taken {
		if n == 0 {
			t.Errorf("%s of %s took no connection by mutual TLS", app, namespace)
		}
	}
}

func testMembers(t *testing.T) {
	var byName, byAddress []reached
	for _, namespace := range []string{without, with} {
		for _, pod := range stage.Pods(t, namespace, "app=member") {
			byName = append(byName, reached{url: "http://" + pod.Name + ".members." + namespace + ":7000/", host: pod.Name, port: 7000})
			byAddress = append(byAddress, reached{url: "http://" + pod.Status.PodIP + ":7000/", host: pod.Name, port: 7000})
		}
	}
	if len(byName) != 4 {
		t.Fatalf("%d members, want two of each namespace", len(byName))
	}
	wantReached(t, without, "client", "client", byName)
	wantReached(t, with, "client", "client", append(byName, byAddress...))
	// A member that listens at the address of its pod, and its peer.
	wantReached(t, without, "member-0", "member", []reached{{url: "http://member-1.members:7000/", host: "member-1", port: 7000}})
	wantReached(t, with, "member-0", "member", []reached{{url: "http://member-1.members:7000/", host: "member-1", port: 7000}})
	wantOnlyMutualTLS(t, without, "app=member")
	wantOnlyMutualTLS(t, with, "app=member")
}

// testTalks holds a conversation of each pattern, the server that speaks first among them, between pods of both kinds.
func testTalks(t *testing.T) {
	for _, way := range []struct{ from, to string }{{without, without}, {without, with}, {with, without}} {
		var urls []string
		for i := range talk.Patterns {
			urls = append(urls, fmt.Sprintf("talk://talker.%s:%d", way.to, 11000+i))
		}
		for i, a := range stage.Call(t, way.from, "client", "client", urls...) {
			if a.Error != "" {
				t.Errorf("from %s to %s, %s: %s", way.from, way.to, talk.Patterns[i], a.Error)
			}
		}
	}
	for _, namespace := range []string{without, with} {
		log := stage.Must(t, "", "-n", namespace, "logs", "deployment/talker", "-c", "talker")
		for line := range strings.Lines(log) {
			if strings.Contains(line, `"error"`) {
				t.Errorf("the server of %s: %s", namespace, line)
			}
		}
	}
	wantOnlyMutualTLS(t, without, "app=talker")
	wantOnlyMutualTLS(t, with, "app=talker")
}

func testJobs(t *testing.T) {
	for namespace, server := range map[string]string{without: with, with: without} {
		stage.Must(t, "", "-n", namespace, "wait", "--for=condition=complete", "job/once", "--timeout=100s")
		pod := stage.Pods(t, namespace, "job-name=once")[0]
		if proxy, _ := stage.Container(pod, api.ProxyName); proxy.State.Terminated == nil || proxy.State.Terminated.ExitCode != 0 {
			t.Errorf("%s: the proxy is %+v, want it ended without an error", namespace, proxy.State)
		}
		if out := stage.Must(t, "", "-n", namespace, "logs", "job/once", "-c", "once"); !strings.Contains(out, `\"host\":\"web-`) {
			t.Errorf("%s printed %q, want the answer of web of %s", namespace, out, server)
		}
	}
}

func testInits(t *testing.T) {
	pod := stage.Pods(t, without, "app=many")[0]
	var names []string
	for _, c := range pod.Spec.InitContainers {
		names = append(names, c.Name)
	}
	if got, want := strings.Join(names, " "), api.InitName+" "+api.ProxyName+" ask helper ask-helper"; got != want {
		t.Errorf("init containers are %s, want %s", got, want)
	}
	log := stage.Must(t, "", "-n", without, "logs", pod.Name, "-c", "ask")
	if strings.Count(log, `\"host\":\"web-`) != 2 {
		t.Errorf("init container ask printed %q, want the answers of web of both namespaces", log)
	}
}

// testReadiness: the kubelet asks the proxy, which asks the app. All probes of web have succeeded, or it had not rolled
// out; here one fails.
func testReadiness(t *testing.T) {
	pod := stage.Pods(t, without, "app=web")[0]
	for _, step := range []struct {
		path  string
		ready bool
	}{{"/fail", false}, {"/heal", true}} {
		if a := stage.Call(t, without, pod.Name, "web", "http://127.0.0.1:8080"+step.path)[0]; a.Error != "" {
			t.Fatal(a)
		}
		stage.Eventually(t, func() error {
			if web, _ := stage.Container(stage.Pod(t, without, pod.Name), "web"); web.Ready != step.ready {
				return fmt.Errorf("after %s web is ready: %v", step.path, web.Ready)
			}
			return nil
		})
	}
}

// late is a Service of the mesh's namespace that no manifest of the package shows.
const late = `
apiVersion: v1
kind: Service
metadata: {name: late}
spec: {selector: {app: local}, ports: [{port: 85, targetPort: 8002}]}
`

// testRefusedNames: a name is not answered where the proxy cannot protect what follows, and the log says the way out.
func testRefusedNames(t *testing.T) {
	stage.Must(t, late, "-n", without, "apply", "-f", "-")
	for _, name := range []struct{ url, log string }{
		{"http://late.restricted:85/", "spec.redirect.services"},
		{"http://busy:8080/", "port 8080 is taken in this pod"},
	} {
		stage.Eventually(t, func() error { // a cache may hold that late is not there
			a := stage.Call(t, without, "client", "client", name.url)[0]
			if a.Error == "" {
				t.Fatalf("%s answers past the proxy: %+v", name.url, a)
			}
			if log := stage.Must(t, "", "-n", without, "logs", "client", "-c", api.ProxyName); !strings.Contains(log, name.log) {
				return fmt.Errorf("%s: %s, and the proxy does not log %q", name.url, a.Error, name.log)
			}
			return nil
		})
	}
}

// testStranger: what listens at the app's own ports is for the proxy alone. Without the policy it answers anybody.
func testStranger(t *testing.T) {
	web, member := stage.Pods(t, without, "app=web")[0], stage.Pods(t, without, "app=member")[0]
	own := "http://" + web.Status.PodIP + ":8080/"
	for _, url := range []string{
		own, "http://" + member.Status.PodIP + ":7000/", "http://" + stage.Pods(t, without, "app=client")[0].Status.PodIP + ":8080/",
		fmt.Sprintf("http://%s:%d/", web.Status.PodIP, api.DirectPort(8080)), "http://web.restricted/", "http://web.restricted-rules/",
	} {
		wantShut(t, url)
	}
	policies := strings.Fields(stage.Must(t, "", "-n", without, "get", "networkpolicies", "-o", "jsonpath={.items[*].metadata.name}"))
	var ofWeb string
	for _, name := range policies {
		if strings.Contains(name, "web") {
			ofWeb = name
		}
	}
	if ofWeb == "" {
		t.Fatalf("the NetworkPolicies are %v, and none is of web", policies)
	}
	saved := stage.Must(t, "", "-n", without, "get", "networkpolicy", ofWeb, "-o", "yaml")
	stage.Must(t, "", "-n", without, "delete", "networkpolicy", ofWeb)
	wantOpen(t, own)
	stage.Must(t, saved, "-n", without, "create", "-f", "-")
	wantShut(t, own)
}

// testPolicies: what a NetworkPolicy says of pods without redirect rules counts at the ports of their proxies.
func testPolicies(t *testing.T) {
	first := "http://many.restricted:81/"
	if a := stage.Call(t, without, "client", "client", first)[0]; a.Error == "" {
		t.Errorf("%s answers who is not among the callers of the NetworkPolicy: %+v", first, a)
	}
	wantReached(t, with, "client", "client", []reached{{url: first, host: "many-", port: 8001}})
	wantReached(t, with, "narrow", "narrow", []reached{{url: "http://web.restricted/", host: "web-", port: 8080}, {url: "http://web-pods.restricted:8080/", host: "web-", port: 8080}})
	for _, url := range []string{first, "http://web.restricted-rules/"} {
		if a := stage.Call(t, with, "narrow", "narrow", url)[0]; a.Error == "" {
			t.Errorf("%s answers narrow, which may not go there: %+v", url, a)
		}
	}
}

func testInitLog(t *testing.T) {
	log := stage.Must(t, "", "-n", without, "logs", "deployment/many", "-c", api.InitName)
	t.Logf("%s", log)
	for _, want := range []string{"Protected:", "NOT protected:", "8003", "literal address", "UDP", "outside of the mesh", "NetworkPolicy"} {
		if !strings.Contains(log, want) {
			t.Errorf("init does not say %q of what is not protected", want)
		}
	}
}
