//go:build e2e && linux

package kinds

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/stage"
)

const (
	namespace = "kinds"
	stranger  = "kinds-outside"
)

// fromProxy begins the address from which a proxy dials its app for a client (clientaddr.Default).
const fromProxy = `\"remote\":\"198.1`

// outside is a client that is in no mesh.
const outside = `
apiVersion: v1
kind: Pod
metadata: {name: stranger}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 7
  containers: [{name: client, image: "meshless-test/app:latest", imagePullPolicy: IfNotPresent, args: [serve]}]
`

// TestKinds deploys all of testdata/kinds.yaml once; the steps look at it from many sides.
func TestKinds(t *testing.T) {
	stage.NewNamespace(t, stranger)
	stage.Must(t, outside, "-n", stranger, "apply", "-f", "-")
	stage.Deploy(t, namespace, "testdata/kinds.yaml", "")
	stage.Rollout(t, namespace, "deployment/web", "deployment/many", "deployment/probed", "statefulset/member", "daemonset/agent")
	stage.Ready(t, namespace, "pods", "-l", "app in (web,member,agent,set,controller,client,load,many,probed)")
	stage.Ready(t, stranger, "pod/stranger")

	t.Run("every Service answers, by mutual TLS", testServices)
	t.Run("each pod of a StatefulSet answers by its name and by its address", testMembers)
	t.Run("Services of type NodePort work as they are meant to", testNodePorts)
	t.Run("datagrams pass untouched", testDatagrams)
	t.Run("Jobs end, and their proxies with them", testJobs)
	t.Run("init containers have the network", testInits)
	t.Run("probes of all kinds succeed, and fail where they should", testProbes)
	t.Run("a liveness failure restarts the app alone", testLiveness)
	t.Run("a readiness failure takes the pod out of its Service", testReadiness)
	t.Run("every container has the CPU request that a HorizontalPodAutoscaler needs", testRequests)
	t.Run("a rollout under load fails no request", testRollout)
	t.Run("nothing else restarted", func(t *testing.T) { stage.WantNoRestarts(t, stage.Pods(t, namespace, "app"), "slow") })
}

// reached is a call, and what must be seen of it at the server.
type reached struct {
	url   string
	host  string // how the name of the pod that answers begins
	port  int    // of its container
	plain bool   // the server's proxy was not involved
}

func wantReached(t *testing.T, pod, container string, calls []reached) {
	t.Helper()
	var urls []string
	for _, c := range calls {
		urls = append(urls, c.url)
	}
	for i, a := range stage.Call(t, namespace, pod, container, urls...) {
		c := calls[i]
		if a.Error != "" || !strings.HasPrefix(a.Host, c.host) || a.Port != c.port || a.ByProxy() == c.plain {
			t.Errorf("%s from %s: got %+v, want port %d of %s*, by its proxy: %v", c.url, pod, a, c.port, c.host, !c.plain)
		}
	}
}

// testServices calls Services of every shape. That the app is dialed by its proxy is seen from its side; that the proxy
// was reached by mutual TLS alone, from the proxy's metrics; that somebody without an identity is refused is the
// control.
func testServices(t *testing.T) {
	wantReached(t, "client", "client", []reached{
		// another port number, and a target by name
		{url: "http://web/", host: "web-", port: 8080},
		{url: "http://web-node:8000/", host: "web-", port: 8080}, // the cluster's address of a NodePort
		{url: "http://elsewhere/", host: "web-", port: 8080},     // ExternalName: a CNAME to web
		{url: "http://agent:8080/", host: "agent-", port: 8080},  // DaemonSet
		{url: "http://set:8080/", host: "bare-set-", port: 8080}, // ReplicaSet
		// ReplicationController, with an address that the manifest fixes
		{url: "http://fixed:8080/", host: "controller-", port: 8080},
		{url: "http://alias.example:8080/", host: "controller-", port: 8080}, // hostAliases
		{url: "http://many:81/", host: "many-", port: 8001},
		{url: "http://many:82/", host: "many-", port: 8002},
		{url: "http://many:84/", host: "many-", port: 9001}, // a native sidecar of its own
		{url: "http://many:83/", host: "many-", port: 8003, plain: true},
	})
	for _, pod := range stage.Pods(t, namespace, "app in (web,agent,set,controller,many)") {
		if pod.Labels["app"] != "web" && stage.OpenedBy(t, namespace, pod.Name, "inbound", "mutual_tls") == 0 {
			t.Errorf("%s: no connection by mutual TLS arrived", pod.Name)
		}
		if n := stage.OpenedBy(t, namespace, pod.Name, "inbound", "plaintext"); n > 0 {
			t.Errorf("%s: %v connections arrived in the clear", pod.Name, n)
		}
	}
	if n := stage.OpenedBy(t, namespace, "client", "outbound", "plaintext"); n != 1 {
		t.Errorf("the client opened %v connections in the clear, want 1, to the port that opted out", n)
	}
	wantStranger(t, map[string]bool{"http://web.kinds/": false, "http://many.kinds:81/": false, "http://agent.kinds:8080/": false, "http://many.kinds:83/": true})
}

// wantStranger calls from outside of the mesh.
func wantStranger(t *testing.T, answered map[string]bool) {
	t.Helper()
	for url, want := range answered {
		if a := stage.Call(t, stranger, "stranger", "client", url)[0]; (a.Error == "") != want {
			t.Errorf("%s from outside of the mesh: got %+v, want an answer: %v", url, a, want)
		}
	}
}

func testMembers(t *testing.T) {
	var calls []reached
	for _, pod := range stage.Pods(t, namespace, "app=member") {
		calls = append(calls,
			reached{url: "http://" + pod.Name + ".members:7000/", host: pod.Name, port: 7000},
			reached{url: "http://" + pod.Name + ".members.kinds.svc.cluster.local:7000/", host: pod.Name, port: 7000},
			reached{url: "http://" + pod.Status.PodIP + ":7000/", host: pod.Name, port: 7000})
		if a := stage.Call(t, stranger, "stranger", "client", "http://"+pod.Status.PodIP+":7000/")[0]; a.Error == "" {
			t.Errorf("%s answered a stranger: %+v", pod.Name, a)
		}
	}
	if len(calls) != 2*3 {
		t.Fatalf("%d calls to think of, want two members by three names", len(calls))
	}
	wantReached(t, "client", "client", calls)
	// A member knows its peer by name, and itself: a pod that calls its own address does not leave the pod, so no proxy
	// is involved.
	wantReached(t, "member-0", "member", []reached{
		{url: "http://member-1.members:7000/", host: "member-1", port: 7000},
		{url: "http://member-0.members:7000/", host: "member-0", port: 7000, plain: true},
	})
	for _, pod := range []string{"member-0", "member-1"} {
		if stage.OpenedBy(t, namespace, pod, "inbound", "mutual_tls") == 0 {
			t.Errorf("%s: no connection by mutual TLS arrived", pod)
		}
	}
}

// testNodePorts calls the node's port from outside of the mesh: web takes mutual TLS only, there as everywhere; the
// port of many that opted out answers.
func testNodePorts(t *testing.T) {
	node := stage.Must(t, "", "get", "nodes", "-o", `jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}`)
	at := func(service string) string {
		return fmt.Sprintf("http://%s:%s/", node, stage.Must(t, "", "-n", namespace, "get", "service", service, "-o", "jsonpath={.spec.ports[0].nodePort}"))
	}
	wantStranger(t, map[string]bool{at("many-node"): true, at("web-node"): false})
}

// testDatagrams: UDP passes both ways beside the proxies, through a Service that has a TCP port as well.
func testDatagrams(t *testing.T) {
	stage.Must(t, "", "-n", namespace, "wait", "--for=condition=complete", "job/datagram", "--timeout=60s")
	if out := stage.Must(t, "", "-n", namespace, "logs", "job/datagram", "-c", "datagram"); !strings.Contains(out, "app: anybody there?") {
		t.Errorf("the datagram came back as %q", out)
	}
}

func testJobs(t *testing.T) {
	stage.Must(t, "", "-n", namespace, "create", "job", "tonight", "--from=cronjob/nightly")
	for _, job := range []string{"once", "tonight"} {
		stage.Must(t, "", "-n", namespace, "wait", "--for=condition=complete", "job/"+job, "--timeout=60s")
		pods := stage.Pods(t, namespace, "job-name="+job)
		if len(pods) != 1 || pods[0].Status.Phase != corev1.PodSucceeded {
			t.Fatalf("%s: %d pods, the first %v, want one that succeeded", job, len(pods), pods[0].Status.Phase)
		}
		proxy, _ := stage.Container(pods[0], api.ProxyName)
		if ended := proxy.State.Terminated; ended == nil || ended.ExitCode != 0 {
			t.Errorf("%s: the proxy is %+v, want it ended without an error", job, proxy.State)
		}
		out := stage.Must(t, "", "-n", namespace, "logs", "job/"+job, "-c", strings.Replace(job, "tonight", "nightly", 1))
		if !strings.Contains(out, fromProxy) {
			t.Errorf("%s printed %q, want the answer of web, which its proxy dialed", job, out)
		}
	}
}

// testInits reads what the init containers of many were told: the first by web, over mutual TLS, the last by the pod's
// own sidecar.
func testInits(t *testing.T) {
	for container, want := range map[string]string{"ask": fromProxy, "ask-helper": `\"port\":9001`} {
		if out := stage.Must(t, "", "-n", namespace, "logs", "deployment/many", "-c", container); !strings.Contains(out, want) {
			t.Errorf("init container %s printed %q, want %s in it", container, out, want)
		}
	}
	pod := stage.Pods(t, namespace, "app=many")[0]
	var names []string
	for _, c := range pod.Spec.InitContainers {
		names = append(names, c.Name)
	}
	if got, want := strings.Join(names, " "), api.InitName+" "+api.ProxyName+" ask helper ask-helper"; got != want {
		t.Errorf("init containers are %s, want %s", got, want)
	}
}

// testRollout replaces web's pods while the load runs, which calls it by three names.
func testRollout(t *testing.T) {
	stage.ResetLoad(t, namespace)
	before := stage.Pods(t, namespace, "app=web")
	stage.Must(t, "", "-n", namespace, "rollout", "restart", "deployment/web")
	stage.Rollout(t, namespace, "deployment/web")
	stage.Eventually(t, func() error {
		for _, old := range before {
			if out, err := stage.Kubectl("", "-n", namespace, "get", "pod", old.Name, "--ignore-not-found", "-o", "name"); err != nil || out != "" {
				return fmt.Errorf("%s is still there: %v", old.Name, err)
			}
		}
		return nil
	})
	stage.WantNoFailure(t, namespace)
}
