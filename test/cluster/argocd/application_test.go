//go:build e2e && linux

package argocd

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/stage"
)

// bound is how long anything may take on a machine that does much else.
const bound = 3 * time.Minute

// application is an Application of the cluster; its name is that of its namespace.
type application struct {
	Name      string
	Options   []string // of each sync
	Automated bool     // Argo CD syncs by itself
	syncs     int
}

// status is what is read of one.
type status struct {
	Operation *struct{} // one that waits
	Status    struct {
		Sync           struct{ Status, Revision string }
		Health         struct{ Status string }
		Conditions     []struct{ Type, Message string }
		OperationState struct {
			Phase, Message string
			Operation      struct{ Info []struct{ Value string } }
			SyncResult     struct {
				Revision  string
				Resources []resource
			}
		}
		Resources []resource
	}
}

type resource struct{ Kind, Namespace, Name, Status, Message, HookPhase string }

func (r resource) String() string {
	return fmt.Sprintf("%s %s: %s %s %s", r.Kind, r.Name, r.Status, r.HookPhase, r.Message)
}

// apply makes an Application of a source (the fields below spec.source) and a sync policy, each as JSON. It goes with
// the test, and what it synced stays.
func apply(t *testing.T, name, source, policy string) *application {
	t.Helper()
	a := &application{Name: name}
	var parsed struct {
		SyncOptions []string
		Automated   *struct{}
	}
	if err := json.Unmarshal([]byte(policy), &parsed); err != nil {
		t.Fatalf("%v in %s", err, policy)
	}
	a.Options, a.Automated = parsed.SyncOptions, parsed.Automated != nil
	a.create(t, `"source": `+source, policy)
	t.Cleanup(func() { a.end(t) })
	return a
}

// create applies the Application, with what says where its manifests are.
func (a *application) create(t *testing.T, source, policy string) {
	t.Helper()
	stage.Must(t, fmt.Sprintf(`{"apiVersion": "argoproj.io/v1alpha1", "kind": "Application", "metadata": {"name": %q, "namespace": %q},
"spec": {"project": "default", %s, "destination": {"server": "https://kubernetes.default.svc", "namespace": %q}, "syncPolicy": %s}}`,
		a.Name, namespace, source, a.Name, policy), "apply", "--validate=strict", "-f", "-")
}

func (a *application) end(t *testing.T) {
	if t.Failed() {
		out, _ := stage.Kubectl("", "-n", namespace, "get", "application", a.Name, "-o", "yaml")
		t.Logf("--- %s ---\n%s", a.Name, out)
	}
	if os.Getenv("KEEP") != "" {
		return
	}
	if _, err := stage.Kubectl("", "-n", namespace, "delete", "application", a.Name, "--ignore-not-found"); err != nil {
		t.Error(err)
	}
}

// source is that of a repository.
func source(r *repository, path, more string) string {
	return fmt.Sprintf(`{"repoURL": %q, "targetRevision": %q, "path": %q%s}`, r.URL, r.Branch, path, more)
}

func (a *application) get() (s status, err error) {
	out, err := stage.Kubectl("", "-n", namespace, "get", "application", a.Name, "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	return s, err
}

// Start starts a sync of a commit; of "", what the branch is at.
func (a *application) Start(t *testing.T, commit string) {
	t.Helper()
	a.syncs++
	operation, err := json.Marshal(map[string]any{"operation": map[string]any{
		"initiatedBy": map[string]string{"username": "test"},
		"info":        []map[string]string{{"name": "sync", "value": a.id()}},
		"sync":        map[string]any{"revision": commit, "prune": true, "syncOptions": a.Options},
	}})
	if err != nil {
		t.Fatal(err)
	}
	stage.Must(t, "", "-n", namespace, "patch", "application", a.Name, "--type=merge", "-p", string(operation))
}

func (a *application) id() string { return fmt.Sprintf("%s-%d", a.Name, a.syncs) }

// Ended waits for the end of the sync that was started.
func (a *application) Ended(t *testing.T, within time.Duration) (s status) {
	t.Helper()
	stage.Poll(t, within, func() (err error) {
		if s, err = a.get(); err != nil {
			return err
		}
		state := s.Status.OperationState
		if s.Operation != nil || len(state.Operation.Info) == 0 || state.Operation.Info[0].Value != a.id() || state.Phase == "Running" || state.Phase == "Terminating" {
			return fmt.Errorf("%s: the sync is %s: %s", a.Name, state.Phase, state.Message)
		}
		return nil
	})
	return s
}

// Sync syncs a commit, and waits until it is in force.
func (a *application) Sync(t *testing.T, commit string) status {
	t.Helper()
	started := time.Now()
	a.Start(t, commit)
	s := a.Ended(t, bound)
	if state := s.Status.OperationState; state.Phase != "Succeeded" || commit != "" && state.SyncResult.Revision != commit {
		t.Fatalf("%s: the sync of %s %s at %s: %s %v %v", a.Name, commit, state.Phase, state.SyncResult.Revision, state.Message, state.SyncResult.Resources, s.Status.Conditions)
	}
	s = a.InForce(t, commit)
	t.Logf("%s: synced and healthy after %v", a.Name, time.Since(started).Round(100*time.Millisecond))
	return s
}

// Update brings a commit that was just made into force.
func (a *application) Update(t *testing.T, commit string) {
	t.Helper()
	if a.Automated {
		a.Refresh(t)
		a.InForce(t, commit)
		return
	}
	a.Sync(t, commit)
}

// InForce waits until the Application is Synced to the commit, and Healthy.
func (a *application) InForce(t *testing.T, commit string) (s status) {
	t.Helper()
	stage.Poll(t, bound, func() (err error) {
		if s, err = a.get(); err != nil {
			return err
		}
		if s.Status.Sync.Status != "Synced" || commit != "" && s.Status.Sync.Revision != commit || s.Status.Health.Status != "Healthy" {
			return fmt.Errorf("%s is %+v and %s: %v", a.Name, s.Status.Sync, s.Status.Health.Status, s.Status.Conditions)
		}
		return nil
	})
	return s
}

// Refresh lets Argo CD render and compare anew, without its caches.
func (a *application) Refresh(t *testing.T) (s status) {
	t.Helper()
	const annotation = "argocd.argoproj.io/refresh"
	stage.Must(t, "", "-n", namespace, "annotate", "--overwrite", "application", a.Name, annotation+"=hard")
	stage.Poll(t, time.Minute, func() error {
		out, err := stage.Kubectl("", "-n", namespace, "get", "application", a.Name, "-o", "json")
		if err != nil {
			return err
		}
		if strings.Contains(out, `"`+annotation+`"`) {
			return fmt.Errorf("%s is not refreshed yet", a.Name)
		}
		return json.Unmarshal([]byte(out), &s)
	})
	return s
}

// WantQuiet is WantInSync, and wants a second sync to write nothing.
func (a *application) WantQuiet(t *testing.T) {
	t.Helper()
	before := settled(t, a.Name)
	a.WantInSync(t)
	a.Sync(t, "")
	if diff := cmp.Diff(before, settled(t, a.Name)); diff != "" {
		t.Errorf("%s: the second sync wrote something:\n%s", a.Name, diff)
	}
}

// WantInSync wants no difference after a hard refresh.
func (a *application) WantInSync(t *testing.T) {
	t.Helper()
	if s := a.Refresh(t); s.Status.Sync.Status != "Synced" {
		t.Errorf("%s is %s after a hard refresh: %v %v", a.Name, s.Status.Sync.Status, s.Status.Conditions, s.Status.Resources)
	}
	if out, err := argocd(t, "app", "diff", a.Name); err != nil || out != "" {
		t.Errorf("argocd app diff: %v\n%s", err, out)
	}
}

// objects are all that packages have, but for pods: the kubelet writes those when it likes.
const objects = "deployments,statefulsets,cronjobs,services,secrets,configmaps"

// settled is which version each object has, and which pods there are, once that did not change for a second.
func settled(t *testing.T, of string) (all map[string]string) {
	t.Helper()
	last := ""
	for range 40 {
		now := stage.Must(t, "", "-n", of, "get", objects, "-o", `jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{"\n"}{end}`) +
			stage.Must(t, "", "-n", of, "get", "pods", "-o", `jsonpath={range .items[*]}Pod/{.metadata.name} {.metadata.uid}{"\n"}{end}`)
		if now == last {
			all = map[string]string{}
			for line := range strings.Lines(now) {
				name, version, _ := strings.Cut(strings.TrimSpace(line), " ")
				all[name] = version
			}
			return all
		}
		last = now
		time.Sleep(time.Second)
	}
	t.Fatalf("the objects of %s change all the time", of)
	return nil
}

// wantMeshed wants so many pods in the mesh, each Ready, and no other pod.
func wantMeshed(t *testing.T, of string, n int) {
	t.Helper()
	stage.Poll(t, bound, func() error {
		out, err := stage.Kubectl("", "-n", of, "get", "pods", "--field-selector", "status.phase!=Succeeded", "-o", "json")
		if err != nil {
			return err
		}
		return meshed(out, n)
	})
}

func meshed(list string, n int) error {
	var pods struct {
		Items []struct {
			Metadata struct {
				Name        string
				Annotations map[string]string
			}
			Status struct {
				Conditions []struct{ Type, Status string }
			}
		}
	}
	if err := json.Unmarshal([]byte(list), &pods); err != nil {
		return err
	}
	if len(pods.Items) != n {
		return fmt.Errorf("%d pods, want %d", len(pods.Items), n)
	}
	for _, pod := range pods.Items {
		ready := false
		for _, c := range pod.Status.Conditions {
			ready = ready || c.Type == "Ready" && c.Status == "True"
		}
		if pod.Metadata.Annotations[api.WorkloadAnnotation] == "" || !ready {
			return fmt.Errorf("%s: in the mesh: %v, ready: %v", pod.Metadata.Name, pod.Metadata.Annotations[api.WorkloadAnnotation] != "", ready)
		}
	}
	return nil
}
