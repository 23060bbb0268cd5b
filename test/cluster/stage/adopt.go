//go:build linux

package stage

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/app/load"
	"github.com/meshless-dev/meshless/test/example"
)

// Engine brings what lies in Git to the cluster.
type Engine interface {
	// Sync brings the kustomization of the folder to the cluster, and removes what it does not hold any more. It
	// returns when the engine says that it is in force. Outside of the mesh the folder has no function.
	Sync(t *testing.T, folder *example.Example)
}

// What the commits of docs/adoption.md change.
const (
	outOfMesh  = "resources: [app.yaml]\n"
	inMesh     = "resources: [app.yaml, mtls]\ntransformers: [mtls.yaml]\n"
	plaintext  = `outbound: {excludePorts: ["1-65535"]}`
	mutual     = "outbound: {}"
	permissive = "inbound: {mode: Permissive}"
	strict     = "inbound: {mode: Strict}"
)

// Adopt goes the way of docs/adoption.md with an app that runs: into the mesh by its three commits, and out again, each
// brought to the cluster by the engine. Nobody may notice: the load, within the app and from outside of the mesh for as
// long as that is let in, fails no more often than the same load on a copy of the app that never sees a mesh and is
// rolled as often; and each Service has an endpoint that is ready at every look.
func Adopt(t *testing.T, namespace string, engine Engine) {
	control := newAdoption(t, namespace+"-control", nil)
	a := newAdoption(t, namespace, engine)
	a.control = control
	a.apply(t)
	a.outsider(t)
	stop := a.watchEndpoints(t)
	a.roll(t, "1: every pod gets its sidecar", "kustomization.yaml", outOfMesh, inMesh)
	a.roll(t, "2: send mutual TLS", "mtls.yaml", plaintext, mutual)
	a.wantMutualTLS(t)
	Must(t, "", "-n", namespace, "delete", "pod", "outsider", "--wait=false") // it is refused from now on
	a.reload(t, "3: accept nothing else", permissive, strict)
	a.reload(t, "back of 3: accept plaintext as well", strict, permissive)
	a.roll(t, "back of 2: send no mutual TLS any more", "mtls.yaml", mutual, plaintext)
	a.roll(t, "back of 1: take the function out", "kustomization.yaml", inMesh, outOfMesh)
	stop()
	for _, p := range a.Pods {
		if p.Meshed {
			t.Errorf("%s is still in the mesh", p.Name)
		}
	}
	a.Warnings(t)
}

// adoption is an app on its way. Its names are those of a Chain, whose pods it counts and asks.
type adoption struct {
	*Chain
	engine  Engine    // nil: the control, which only rolls
	control *adoption // nil of the control itself
	outside bool      // a pod outside of the mesh asks as well
}

func newAdoption(t *testing.T, namespace string, engine Engine) *adoption {
	t.Helper()
	NewNamespace(t, namespace)
	folder := example.Copy(t, "../stage/testdata/adoption")
	folder.Replace(t, "kustomization.yaml", "adoption-namespace", namespace)
	a := &adoption{Chain: &Chain{Namespace: namespace, Folder: folder, forwards: newForwards(t, namespace)}, engine: engine}
	Must(t, folder.IdentitySecret(namespace), "apply", "-f", "-")
	return a
}

// apply brings the app and its control to the cluster for the first time, outside of the mesh.
func (a *adoption) apply(t *testing.T) {
	t.Helper()
	Must(t, a.control.Folder.Plain(t), "apply", "-f", "-")
	a.engine.Sync(t, a.Folder)
	for _, each := range []*adoption{a.control, a} {
		each.Rollout(t)
		each.AwaitRequests(t, 5, "client")
		each.TakeStats(t) // some asked before others were there
	}
}

// outsider lets a pod outside of the mesh ask the app.
func (a *adoption) outsider(t *testing.T) {
	t.Helper()
	Must(t, Outsider(5, "http://api:8080/orders"), "-n", a.Namespace, "apply", "-f", "-")
	Must(t, "", "-n", a.Namespace, "wait", "--for=condition=Ready", "pod/outsider", "--timeout=60s")
	a.outside = true
}

// reload commits a change of the config that restarts no pod.
func (a *adoption) reload(t *testing.T, name, old, with string) {
	t.Helper()
	a.outside = false
	a.commit(t, "mtls.yaml", old, with)
	a.hurry(t, name)
	a.InForce(t)
	a.Unchanged(t)
	a.compare(t, name, load.Stats{}, load.Stats{})
}

// hurry lets the kubelet look at the pods' volumes now: it does whenever a pod changes, and else every minute.
func (a *adoption) hurry(t *testing.T, why string) {
	t.Helper()
	Must(t, "", "-n", a.Namespace, "annotate", "pods", "-l", chainSelector, "--overwrite", "test/hurry="+why)
}

// roll commits a change by which every pod is replaced, and waits until that is over, with the control beside it.
func (a *adoption) roll(t *testing.T, name, file, old, with string) {
	t.Helper()
	started := time.Now()
	callers, controls := Follow(t, a.Chain, "client"), Follow(t, a.control.Chain, "client")
	before := a.Pods
	Must(t, "", "-n", a.control.Namespace, "rollout", "restart", "deployment")
	a.commit(t, file, old, with)
	a.Rollout(t)
	a.control.Rollout(t)
	for _, p := range a.Pods {
		if slices.ContainsFunc(before, func(b Replica) bool { return b.UID == p.UID }) {
			t.Errorf("%s: %s was not replaced", name, p.Name)
		}
	}
	Must(t, "", "-n", a.Namespace, "wait", "--for=condition=Complete", "job/migrate", "--timeout=60s")
	a.AwaitRequests(t, 10, "client")
	a.compare(t, name, callers.Stats(t), controls.Stats(t))
	t.Logf("%s: %v", name, time.Since(started).Round(time.Second))
}

func (a *adoption) commit(t *testing.T, file, old, with string) {
	t.Helper()
	a.Folder.Replace(t, file, old, with)
	if with != outOfMesh {
		a.Folder.Issue(t, time.Now()) // as a pipeline would
		a.Rendered = Read(t, Render(t, a.Folder))
	}
	a.engine.Sync(t, a.Folder)
}

// compare wants no more failures than of the control, among the callers that run and those that ended.
func (a *adoption) compare(t *testing.T, name string, ended, endedControl load.Stats) {
	t.Helper()
	control := a.control.TakeStats(t)["client"]
	control.Add(endedControl)
	all := a.TakeStats(t)
	all["ended"] = ended
	if a.outside {
		all["outsider"] = a.TakeStatsOf(t, "outsider")
	}
	var sum load.Stats
	for caller, s := range all {
		t.Logf("%s: %s: %s", name, caller, s)
		sum.Add(s)
	}
	if sum.Requests == 0 || sum.Failed > control.Failed {
		t.Errorf("%s: %s\nwithout a mesh: %s", name, sum, control)
	}
}

// wantMutualTLS wants the app to have spoken it by now, and plaintext only with the outsider.
func (a *adoption) wantMutualTLS(t *testing.T) {
	t.Helper()
	for _, p := range a.Of("api", "db") {
		if OpenedBy(t, a.Namespace, p.Name, "inbound", "mutual_tls") == 0 {
			t.Errorf("%s has taken no connection of mutual TLS after commit 2", p.Name)
		}
	}
}

// watchEndpoints looks again and again, until stop is called, whether each Service has an endpoint that is ready.
func (a *adoption) watchEndpoints(t *testing.T) (stop func()) {
	t.Helper()
	end := make(chan struct{})
	var watching sync.WaitGroup
	var missing atomic.Int32
	watching.Go(func() {
		for looks := 1; ; looks++ {
			for _, service := range []string{"api", "db"} {
				ready, err := Kubectl("", "-n", a.Namespace, "get", "endpointslices", "-l", "kubernetes.io/service-name="+service, "-o",
					`jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}`)
				if err == nil && strings.TrimSpace(ready) == "" {
					if missing.Add(1); missing.Load() == 1 {
						t.Errorf("Service %s has no endpoint that is ready, at look %d", service, looks)
					}
				}
			}
			select {
			case <-end:
				t.Logf("%d looks at the endpoints; %d times a Service had none", looks, missing.Load())
				return
			case <-time.After(500 * time.Millisecond):
			}
		}
	})
	over := sync.OnceFunc(func() { close(end); watching.Wait() })
	t.Cleanup(over)
	return over
}

// Leftovers are the objects of a namespace that speak of the mesh. ReplicaSets are none: Kubernetes keeps the history
// of a Deployment.
func Leftovers(t *testing.T, namespace string) (found []string) {
	t.Helper()
	const kinds = "deployments,services,secrets,configmaps,pods,jobs,cronjobs"
	out := Must(t, "", "-n", namespace, "get", kinds, "-o",
		`jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.annotations} {.metadata.labels}{"\n"}{end}`)
	for line := range strings.Lines(out) {
		name, _, _ := strings.Cut(line, " ")
		if strings.Contains(line, "meshless") {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}
