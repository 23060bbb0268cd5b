//go:build e2e && linux

package flux

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
)

// app is a package in a repository of its own, of which CI renders a branch, and the objects by which Flux syncs it.
type app struct {
	*example.Example
	room   *room
	name   string // of the Kustomization, and of the folder's branch
	origin string
	url    string
	checks string // the work tree: the folder above that of the package
}

// newApp makes the repository of a package. Nothing is committed yet.
func (r *room) newApp(t *testing.T, name string, e *example.Example) *app {
	t.Helper()
	a := &app{Example: e, room: r, name: name, origin: filepath.Join(r.dir, name+".git"), url: r.url + name + ".git", checks: filepath.Dir(e.Dir)}
	git(t, "", "init", "-q", "--bare", a.origin)
	git(t, a.checks, "init", "-q")
	git(t, a.checks, "remote", "add", "origin", a.origin)
	return a
}

// push commits the sources to main and runs examples/flux/render.sh, as CI does when they are merged.
func (a *app) push(t *testing.T) {
	t.Helper()
	a.commit(t)
	script, err := filepath.Abs("../../../examples/flux/render.sh")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), script, filepath.Base(a.Dir), a.branch())
	cmd.Dir, cmd.Env = a.checks, ci(t)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("render.sh: %v\n%s", err, out)
	}
}

// commit commits the sources to main and pushes them.
func (a *app) commit(t *testing.T) {
	t.Helper()
	git(t, a.checks, "add", "-A")
	git(t, a.checks, "commit", "-q", "--allow-empty", "-m", "source")
	git(t, a.checks, "push", "-q", "origin", "HEAD:refs/heads/main")
}

func (a *app) branch() string { return "rendered/" + a.name }

// rendered is what the branch holds.
func (a *app) rendered(t *testing.T) string {
	t.Helper()
	return git(t, a.origin, "show", a.branch()+":manifests.yaml")
}

// objects are those of a file of examples/flux, for this package. more are lines for the spec of its Kustomization, two
// spaces indented, which is the last object of each file.
func (a *app) objects(t *testing.T, file, more string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../../examples/flux", file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer("name: shop", "name: "+a.name, "bootstrap/shop", "bootstrap/"+a.name, "rendered/shop", a.branch(),
		"flux-system", system, "https://github.com/OWNER/REPOSITORY", a.url).Replace(strings.TrimSpace(string(text)) + "\n" + more)
}

// alone is sync.yaml for a namespace that the test has made, so that nothing has to be there before.
func (a *app) alone(t *testing.T, more string) string {
	t.Helper()
	var kept []string
	for line := range strings.Lines(a.objects(t, "sync.yaml", more)) {
		if !strings.HasPrefix(line, "  dependsOn:") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// status is what Flux says of an object.
type status struct {
	Metadata metav1.ObjectMeta
	Status   struct {
		LastHandledReconcileAt string
		LastAttemptedRevision  string
		Artifact               struct{ Revision string }
		Conditions             []metav1.Condition
	}
}

// ready is the object's Ready condition, once Flux has handled the request for the commit; before that an error.
func (s status) ready(requested, commit string) (metav1.Condition, error) {
	for _, c := range s.Status.Conditions {
		if c.Type != "Ready" {
			continue
		}
		handled := s.Status.LastHandledReconcileAt == requested && c.ObservedGeneration == s.Metadata.Generation
		at := strings.HasSuffix(s.Status.LastAttemptedRevision+s.Status.Artifact.Revision, commit)
		if handled && at && c.Status != metav1.ConditionUnknown {
			return c, nil
		}
		return c, fmt.Errorf("the request of %s for %s is not handled: Ready is %s, %s: %s (%+v)", requested, commit, c.Status, c.Reason, c.Message, s.Status)
	}
	return metav1.Condition{}, errors.New("there is no condition Ready yet")
}

// request asks Flux to look at an object now, as `flux reconcile` does.
func request(t *testing.T, kind, name string) (at string) {
	t.Helper()
	at = time.Now().Format(time.RFC3339Nano)
	stage.Must(t, "", "-n", system, "annotate", "--overwrite", kind, name, "reconcile.fluxcd.io/requestedAt="+at)
	return at
}

// look is what Flux says of an object now.
func look(kind, name string) (s status, err error) {
	out, err := stage.Kubectl("", "-n", system, "get", kind, name, "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	return s, err
}

// patience is for machines with other work: Flux waits for every pod and Job, and a Job's pods are made anew ever more
// slowly.
const patience = 3 * time.Minute

// reconcile lets Flux fetch a branch and apply it, and waits until judge is content with what it says of it.
func (a *app) reconcile(t *testing.T, name, branch string, judge func(metav1.Condition) error) {
	t.Helper()
	commit := git(t, a.origin, "rev-parse", branch)
	for _, kind := range []string{"gitrepository", "kustomization"} {
		requested := request(t, kind, name)
		stage.Poll(t, patience, func() error {
			s, err := look(kind, name)
			if err != nil {
				return err
			}
			ready, err := s.ready(requested, commit)
			switch {
			case err != nil:
				return fmt.Errorf("%s %s: %w", kind, name, err)
			case kind == "gitrepository":
				return applied(ready)
			}
			return judge(ready)
		})
	}
}

func applied(ready metav1.Condition) error {
	if ready.Status != metav1.ConditionTrue {
		return fmt.Errorf("Flux says %s: %s", ready.Reason, ready.Message)
	}
	return nil
}

// sync waits until Flux says that the branch is applied and all of it is healthy.
func (a *app) sync(t *testing.T) {
	t.Helper()
	started := time.Now()
	a.reconcile(t, a.name, a.branch(), applied)
	t.Logf("%s: in sync after %v", a.name, time.Since(started).Round(100*time.Millisecond))
}

// refused waits until Flux says that it does not, in these words.
func (a *app) refused(t *testing.T, words string) {
	t.Helper()
	a.reconcile(t, a.name, a.branch(), func(ready metav1.Condition) error {
		if ready.Status != metav1.ConditionFalse || !strings.Contains(ready.Message, words) {
			return fmt.Errorf("Flux says %s, %s: %s; want %q", ready.Status, ready.Reason, ready.Message, words)
		}
		return nil
	})
}
