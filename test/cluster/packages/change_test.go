//go:build e2e && linux

package packages

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/cluster/stage"
)

// TestTwoNamespaces has a package in each of two namespaces, and changes one under the load of both.
func TestTwoNamespaces(t *testing.T) {
	stage.NewNamespace(t, "packages-a")
	stage.NewNamespace(t, "packages-b")
	wire := stage.WatchWire(t, "packages-a", marker, addressMarker)
	a, b := &pack{name: "a", namespace: "packages-a"}, &pack{name: "b", namespace: "packages-b"}
	m := newMesh(t, a, b)
	for _, step := range []struct {
		name string
		test func(*testing.T)
	}{
		{"both ways by every kind of address", func(t *testing.T) {
			m.byAddress(t)
			m.wantNoFailure(t, "")
		}},
		{"pods that just started, and never get ready", func(t *testing.T) { m.testYoung(t, b) }},
		{"a new Service of one is found by the other", func(t *testing.T) { m.testNewService(t, a, b) }},
		{"a new workload behind an old Service", func(t *testing.T) { m.testNewWorkload(t, b) }},
		{"the old workload goes", func(t *testing.T) { m.testOldGoes(t, b) }},
		{"a Service moves to another workload", func(t *testing.T) { m.testMoved(t, b) }},
		{"all of one is renamed", func(t *testing.T) { m.testRenamed(t, a, b) }},
		{"one is removed", func(t *testing.T) { m.testRemoved(t, b) }},
	} {
		started := time.Now()
		if !t.Run(step.name, step.test) {
			break // what follows would only tell it again
		}
		t.Logf("%s: %v", step.name, time.Since(started).Round(time.Second))
	}
	m.wantEncrypted(t)
	wire.WantSecret(t)
}

// testYoung calls pods by address as soon as their apps run. No Service has them, and they never get ready.
func (m *mesh) testYoung(t *testing.T, b *pack) {
	m.edit(t, b, func(text string) string {
		return text + strings.Replace(b.server("young", "young"), "path: /healthz", "path: /tls", 1) // 503
	})
	var urls []string
	stage.Poll(t, time.Minute, func() error {
		urls = nil
		for _, pod := range stage.Pods(t, b.namespace, "app=young") {
			if app, ok := stage.Container(pod, "app"); ok && app.State.Running != nil {
				urls = append(urls, "http://"+pod.Status.PodIP+":8080/"+addressMarker)
			}
		}
		if len(urls) < 2 {
			return fmt.Errorf("%d pods run", len(urls))
		}
		return nil
	})
	for range 5 {
		for _, from := range m.packs {
			for _, got := range from.call(t, urls...) {
				if got.Error != "" || !got.ByProxy() {
					t.Errorf("%s: %+v", from.name, got)
				}
			}
		}
	}
	m.edit(t, b, func(text string) string {
		return strings.Replace(text, strings.Replace(b.server("young", "young"), "path: /healthz", "path: /tls", 1), "", 1)
	})
	stage.Must(t, "", "-n", b.namespace, "delete", "deployment", "young", "--wait=false")
}

// testNewService: b is rendered anew with a Service that a has never heard of. a's map does not change.
func (m *mesh) testNewService(t *testing.T, a, b *pack) {
	m.edit(t, b, func(text string) string { return text + b.server("late", "late") + b.services("late") })
	stage.Rollout(t, b.namespace, "deployment/late")
	for _, from := range []*pack{a, b} {
		urls := []string{"http://late." + b.namespace + ":8080/" + addressMarker, "http://late-each." + b.namespace + ":8080/" + addressMarker}
		stage.Poll(t, 15*time.Second, func() error { // until kube-proxy and the name server have learned of it
			for _, got := range from.call(t, urls...) {
				if got.Error != "" {
					return fmt.Errorf("%s: %+v", from.name, got)
				}
			}
			return nil
		})
		for range 10 {
			for _, got := range from.call(t, urls...) {
				if got.Error != "" || !got.ByProxy() {
					t.Errorf("%s: %+v", from.name, got)
				}
			}
		}
	}
	m.wantNoFailure(t, "")
}

// testNewWorkload: a second Deployment behind Services that clients know. Their maps name the first alone for up to a
// minute.
func (m *mesh) testNewWorkload(t *testing.T, b *pack) {
	m.edit(t, b, func(text string) string { return text + b.server("b-two", "b") })
	stage.Rollout(t, b.namespace, "deployment/b-two")
	m.wantNoFailure(t, "")
	m.wantServedBy(t, "b-two")
}

// testOldGoes: with that, a workload was renamed.
func (m *mesh) testOldGoes(t *testing.T, b *pack) {
	m.edit(t, b, func(text string) string { return strings.Replace(text, b.server("b", "b"), "", 1) })
	stage.Must(t, "", "-n", b.namespace, "delete", "deployment", "b")
	stage.Eventually(t, func() error {
		if n := len(stage.Pods(t, b.namespace, "deployment=b")); n > 0 {
			return fmt.Errorf("%d pods of the old Deployment", n)
		}
		return nil
	})
	m.wantNoFailure(t, "")
}

// wantServedBy wants that pods of the Deployment answer callers of every package.
func (m *mesh) wantServedBy(t *testing.T, deployment string) {
	t.Helper()
	for _, from := range m.packs {
		stage.Eventually(t, func() error {
			got := from.call(t, "http://b.packages-b:8080/"+addressMarker)[0]
			if got.Error != "" {
				t.Errorf("%s: %+v", from.name, got)
			}
			if !strings.HasPrefix(got.Host, deployment) {
				return fmt.Errorf("%s is answered by %s", from.name, got.Host)
			}
			return nil
		})
	}
}

// testMoved: a Service leads to another workload from one moment to the next. The commit before names both on the
// Service, so the leaf of the other names it in time.
func (m *mesh) testMoved(t *testing.T, b *pack) {
	const unmoved, moved = "{name: late}\nspec: {selector: {app: late}", "{name: late}\nspec: {selector: {app: b-alone}"
	both := "{name: late, annotations: {meshless.dev/workloads: \"deployment/late,deployment/b-alone\"}}\nspec: {selector: {app: late}"
	before := m.expiries(t, b, "b-alone")
	m.edit(t, b, func(text string) string { return strings.Replace(text, unmoved, both, 1) })
	stage.Poll(t, 150*time.Second, func() error { // until the kubelet has brought the leaf
		for pod, expiry := range m.expiries(t, b, "b-alone") {
			if expiry == before[pod] {
				return fmt.Errorf("%s has its old leaf", pod)
			}
		}
		return nil
	})
	m.edit(t, b, func(text string) string { return strings.Replace(text, both, moved, 1) })
	for _, from := range m.packs {
		others := 0
		for range 20 {
			got := from.call(t, "http://late."+b.namespace+":8080/"+addressMarker)[0]
			if got.Error != "" || !got.ByProxy() {
				t.Errorf("%s: %+v", from.name, got)
			}
			if strings.HasPrefix(got.Host, "b-alone") {
				others++
			}
		}
		if others == 0 {
			t.Errorf("%s was never answered by the workload to which the Service moved", from.name)
		}
	}
}

// expiries are when the leaves of an app's pods end.
func (m *mesh) expiries(t *testing.T, p *pack, app string) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	for _, pod := range stage.Pods(t, p.namespace, "app="+app) {
		all[pod.Name] = stage.Metric(t, stage.Metrics(t, p.namespace, pod.Name), "meshless_leaf_not_after_timestamp_seconds")
	}
	return all
}

// testRenamed: every name of b gets a prefix. New objects come first, the old ones go after. Meanwhile new pods stand
// behind old Services, too, of which their leaves know nothing: packages that look for an alias do not mind. The old
// caller of b itself goes with the rest.
func (m *mesh) testRenamed(t *testing.T, a, b *pack) {
	old := b.text
	b.folder.Edit(t, "kustomization.yaml", func(text string) string { return text + "namePrefix: new-\n" })
	m.apply(t, b)
	stage.Rollout(t, b.namespace, "deployment/new-b-two", "deployment/new-b-alone", "deployment/new-late", "deployment/new-b-caller")
	m.packs = []*pack{a}
	m.wantNoFailure(t, "")
	removed := stage.OnlyIn(t, old, b.text)
	stage.Must(t, removed, "delete", "--wait=false", "-f", "-")
	b.name = "new-b"
	stage.Poll(t, 15*time.Second, func() error {
		if got := a.call(t, "http://new-b."+b.namespace+":8080/"+addressMarker)[0]; got.Error != "" {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	for range 10 {
		if got := a.call(t, "http://new-b."+b.namespace+":8080/"+addressMarker)[0]; got.Error != "" || !got.ByProxy() {
			t.Errorf("%+v", got)
		}
	}
	a.ledger(t, "/reset")
	m.wantNoFailure(t, "b")
}

// testRemoved: nothing of b is left. a goes on, and what it sends to b's names and old addresses is never in the clear.
func (m *mesh) testRemoved(t *testing.T, b *pack) {
	stage.Must(t, b.text, "delete", "--wait=false", "-f", "-")
	stage.Eventually(t, func() error {
		if n := len(stage.Pods(t, b.namespace, "test=packages")); n > 0 {
			return fmt.Errorf("%d pods are left", n)
		}
		return nil
	})
	m.packs[0].ledger(t, "/reset")
	m.wantNoFailure(t, "b")
}

// TestOneNamespace has three packages in one namespace; one goes, under the load of the others.
func TestOneNamespace(t *testing.T) {
	const namespace = "packages-one"
	stage.NewNamespace(t, namespace)
	wire := stage.WatchWire(t, namespace, marker, addressMarker)
	p, q, r := &pack{name: "p", namespace: namespace}, &pack{name: "q", namespace: namespace}, &pack{name: "r", namespace: namespace}
	m := newMesh(t, p, q, r)
	m.byAddress(t)
	m.wantNoFailure(t, "")
	m.wantEncrypted(t)
	t.Run("one is rendered anew", func(t *testing.T) {
		m.edit(t, r, func(text string) string { return text + r.server("r-two", "r") })
		stage.Rollout(t, namespace, "deployment/r-two")
		m.wantNoFailure(t, "")
		m.byAddress(t)
	})
	t.Run("one is removed", func(t *testing.T) {
		stage.Must(t, q.text, "delete", "--wait=false", "-f", "-")
		stage.Eventually(t, func() error {
			if n := len(stage.Pods(t, namespace, "app in (q,q-alone,q-caller)")); n > 0 {
				return fmt.Errorf("%d pods are left", n)
			}
			return nil
		})
		m.packs = []*pack{p, r}
		m.wantNoFailure(t, "q")
		m.byAddress(t)
	})
	m.wantEncrypted(t)
	wire.WantSecret(t)
}
