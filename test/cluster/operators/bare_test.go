//go:build e2e && linux

package operators

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/app/load"
	"github.com/meshless-dev/meshless/test/cluster/stage"
)

const (
	bareNamespace = "operators-bare"
	bareMarker    = "a-word-between-web-and-echo"

	bareConfig = `  workloads:
    declared:
      - kind: ReplicaSet
        name: echo
        namespace: ` + bareNamespace + `
        selector: {matchLabels: {app: echo}}
        ports: [{name: http, port: 8080}]
      - kind: CronJob
        name: report
        namespace: ` + bareNamespace + `
        selector: {matchLabels: {app: report}}
  authorization:
    rules:
      - {to: {kind: Deployment, name: web}, from: [{kind: ReplicaSet, name: echo}, {kind: CronJob, name: report}]}
      - {to: {kind: ReplicaSet, name: echo}, from: [{kind: Deployment, name: web}]}
`
	// fromProxy begins the address from which a proxy dials its app for a client (clientaddr.Default).
	fromProxy = `\"remote\":\"198.1`
)

// TestBare lets kubectl make a ReplicaSet and a CronJob beside a package; the steps look at their pods.
func TestBare(t *testing.T) {
	requirePolicies(t)
	manifests, err := os.ReadFile("testdata/bare.yaml")
	if err != nil {
		t.Fatal(err)
	}
	stage.NewNamespace(t, bareNamespace)
	wire := stage.WatchWire(t, bareNamespace, bareMarker)
	m := deploy(t, bareNamespace, string(manifests), bareConfig, "app=echo", "app=report")
	stage.Must(t, "", "-n", bareNamespace, "create", "-f", "testdata/made.yaml")
	stage.Rollout(t, bareNamespace, "deployment/web")
	stage.Ready(t, bareNamespace, "pod/other")

	t.Run("pods of a ReplicaSet that kubectl made are in the mesh", m.testReplicaSet)
	t.Run("a pod that the mesh cannot serve is refused, with the reason", m.testRefused)
	t.Run("who may not is refused, in the mesh and outside", m.testStrangers)
	t.Run("a Job of a CronJob that is not in Git is in the mesh", m.testCronJob)
	t.Run("a pod in place of another is in the mesh", m.testReplacement)
	t.Run("leaves are renewed under load", m.testBareRenewal)
	t.Run("the key of declared pods is revoked", m.testBareRevocation)
	t.Run("the authorities are replaced under load", m.testReplaceCA)
	t.Run("all is well again after deaths", m.testBareChaos)
	m.wantInbound(t, "app in (web,echo)")
	stage.WantEncrypted(t, bareNamespace, "app in (web,echo)")
	wire.WantSecret(t)
}

// testReplicaSet calls both ways. That a rule lets each in proves the identities.
func (m *mesh) testReplicaSet(t *testing.T) {
	pods := m.awaitMeshed(t, "set=first", "replicaset/echo", 2)
	for _, pod := range pods {
		for _, call := range []struct{ from, container, url string }{
			{pod.Name, "app", "http://web:8080/"},
			{"deployment/web", "app", "http://" + pod.Status.PodIP + ":8080/"},
			{"deployment/web", "app", "http://echo:8080/"},
		} {
			stage.Eventually(t, func() error {
				a := stage.Call(t, m.namespace, call.from, call.container, call.url)[0]
				if a.Error == "" && !a.ByProxy() {
					t.Errorf("%s from %s: %+v was not brought by the server's proxy", call.url, call.from, a)
				}
				if a.Error != "" {
					return fmt.Errorf("%s from %s: %s", call.url, call.from, a.Error)
				}
				return nil
			})
		}
	}
	m.awaitLoad(t)
	m.wantInbound(t, "app in (web,echo)")
}

// stats asks for the ledger of a pod's caller; reset lets it count from zero.
func (m *mesh) stats(t *testing.T, pod, path string) (s load.Stats) {
	t.Helper()
	a := stage.Call(t, m.namespace, pod, "caller", fmt.Sprintf("http://127.0.0.1:%d/%s", stage.CallerPort, path))[0]
	if a.Error != "" {
		t.Fatalf("the caller of %s: %s", pod, a.Error)
	}
	if err := json.Unmarshal([]byte(a.Body), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// awaitLoad waits until a while passes in which every caller asks and nothing fails.
func (m *mesh) awaitLoad(t *testing.T) {
	t.Helper()
	stage.Poll(t, 2*time.Minute, func() error {
		for _, pod := range m.pods(t, "app in (web,echo)") {
			m.stats(t, pod.Name, "reset")
		}
		time.Sleep(2 * time.Second) // the while itself: 20 requests
		return m.failures(t)
	})
}

// failures are the requests that failed since the last reset; that there are none of a caller is one, too.
func (m *mesh) failures(t *testing.T) error {
	t.Helper()
	for _, pod := range m.pods(t, "app in (web,echo)") {
		s := m.stats(t, pod.Name, "stats")
		if s.Failed > 0 || s.Requests == 0 {
			return fmt.Errorf("%s: %s", pod.Name, s)
		}
		t.Logf("%s: %s", pod.Name, s)
	}
	return nil
}

func (m *mesh) testRefused(t *testing.T) {
	want := "meshless: " + m.id("replicaset/echo") + ": hostNetwork: "
	stage.Eventually(t, func() error {
		events, err := stage.Kubectl("", "-n", m.namespace, "get", "events",
			"--field-selector", "involvedObject.kind=ReplicaSet,involvedObject.name=unservable,reason=FailedCreate", "-o", "jsonpath={.items[*].message}")
		if err == nil && !strings.Contains(events, want) {
			err = fmt.Errorf("events %q, want %q in one of them", events, want)
		}
		if err == nil {
			t.Log(events)
		}
		return err
	})
	if pods := stage.Pods(t, m.namespace, "set=unservable"); len(pods) > 0 {
		t.Errorf("%s was made", pods[0].Name)
	}
	stage.Must(t, "", "-n", m.namespace, "delete", "replicaset", "unservable")
}

// testStrangers: a workload of the mesh that no rule names, and a pod outside of the mesh.
func (m *mesh) testStrangers(t *testing.T) {
	urls := []string{"http://web:8080/", "http://echo:8080/"}
	for _, a := range stage.Call(t, m.namespace, "other", "client", urls...) {
		if a.Error == "" {
			t.Errorf("other, which no rule names, got %+v", a)
		}
	}
	for _, a := range stage.Call(t, m.namespace, "plain-server", "app", append(urls, "http://plain-server:8080/")...) {
		if control := strings.Contains(a.URL, "plain"); (a.Error == "") != control {
			t.Errorf("%s from outside of the mesh: %+v, want an answer: %v", a.URL, a, control)
		}
	}
}

// testCronJob waits for the Job that the controller makes when its time has come.
func (m *mesh) testCronJob(t *testing.T) {
	var done corev1.Pod
	stage.Poll(t, 150*time.Second, func() error {
		for _, pod := range stage.Pods(t, m.namespace, "app=report") {
			if pod.Status.Phase == corev1.PodFailed {
				t.Errorf("%s failed", pod.Name)
			}
			if done = pod; pod.Status.Phase == corev1.PodSucceeded {
				return nil
			}
		}
		return fmt.Errorf("no Job of the CronJob has ended; the last pod is %s %s", done.Name, done.Status.Phase)
	})
	stage.Must(t, "", "-n", m.namespace, "patch", "cronjob", "report", "-p", `{"spec": {"suspend": true}}`)
	m.wantMeshed(t, done, "cronjob/report")
	if proxy, _ := stage.Container(done, api.ProxyName); proxy.State.Terminated == nil || proxy.State.Terminated.ExitCode != 0 {
		t.Errorf("the proxy of %s is %+v, want it ended without an error", done.Name, proxy.State)
	}
	if out := stage.Must(t, "", "-n", m.namespace, "logs", done.Name, "-c", "report"); !strings.Contains(out, fromProxy) {
		t.Errorf("%s printed %q, want the answer of web, which its proxy dialed", done.Name, out)
	}
}

// testReplacement deletes a pod while web calls it: no request of web fails.
func (m *mesh) testReplacement(t *testing.T) {
	m.awaitLoad(t)
	web := m.pods(t, "app=web")[0].Name
	m.stats(t, web, "reset")
	stage.Must(t, "", "-n", m.namespace, "delete", "pod", m.pods(t, "set=first")[0].Name)
	m.awaitMeshed(t, "set=first", "replicaset/echo", 2)
	if s := m.stats(t, web, "stats"); s.Failed > 0 || s.Requests == 0 {
		t.Errorf("web: %s", s)
	}
}

func (m *mesh) testBareRenewal(t *testing.T) {
	m.awaitLoad(t)
	m.renew(t, 8, "replicaset/echo", "deployment/web")
	if err := m.failures(t); err != nil {
		t.Error(err)
	}
	stage.WantNoRestarts(t, m.pods(t, "app in (web,echo)"))
}

// testBareRevocation: whoever has stolen the present key of echo gets in until it is revoked; echo does again with its
// next one.
func (m *mesh) testBareRevocation(t *testing.T) {
	stolen, err := m.rendered.Open(m.id("replicaset/echo"), m.folder.Cluster)
	if err != nil {
		t.Fatal(err)
	}
	web := stage.Replica{Name: "web", IP: netip.MustParseAddr(m.pods(t, "app=web")[0].Status.PodIP)}
	here := stage.Here(t, web.IP)
	if here {
		if _, err := stage.Knock(t, web, stolen); err != nil {
			t.Errorf("the key of echo is not let in before: %v", err)
		}
	}
	m.folder.Meshless(t, days(7.5), "revoke", m.folder.Dir, "replicaset/echo")
	m.apply(t)
	m.inForce(t)
	stage.Poll(t, 150*time.Second, func() error { // the leaf of web is that of before, so only this shows that it knows
		if _, err := stage.Knock(t, web, stolen); here && err == nil {
			return errors.New("the revoked key of echo is let in")
		}
		return nil
	})
	m.awaitLoad(t)
	stage.WantNoRestarts(t, m.pods(t, "app in (web,echo)"))
}

// testReplaceCA is the runbook "The CA identity leaked": three runs, two days apart, of which nobody notices any.
func (m *mesh) testReplaceCA(t *testing.T) {
	before := m.rendered
	m.awaitLoad(t)
	for run, flags := range [][]string{{"--replace-ca"}, nil, nil} {
		m.folder.Issue(t, days(6.5-2.1*float64(run)), flags...)
		m.apply(t)
		m.inForce(t)
	}
	if err := m.failures(t); err != nil {
		t.Error(err)
	}
	for _, ca := range before.Bundle {
		if slices.ContainsFunc(m.rendered.Bundle, ca.Equal) {
			t.Errorf("authority %q is still trusted", ca.Subject)
		}
	}
	stage.WantNoRestarts(t, m.pods(t, "app in (web,echo)"))
}

// testBareChaos kills while a renewal is on its way.
func (m *mesh) testBareChaos(t *testing.T) {
	m.applyRenewed(t, 1, "replicaset/echo")
	disturb(t, 45*time.Second, m.pods(t, "app in (web,echo)"), proxyProgram, sandboxProgram, "app")
	m.awaitMeshed(t, "set=first", "replicaset/echo", 2)
	m.awaitMeshed(t, "app=web", "deployment/web", 1)
	m.inForce(t)
	m.awaitLoad(t)
}
