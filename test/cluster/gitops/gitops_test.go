//go:build e2e && linux

package gitops

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
)

// set is the ApplySet, by which prune knows what it applied before.
const set = "configmap/chain"

// TestGitOps deploys the chain once, and goes on from what the step before left.
func TestGitOps(t *testing.T) {
	t.Setenv("KUBECTL_APPLYSET", "true") // of kubectl: --prune --applyset is alpha
	a := stage.NewChain(t, "gitops")
	a.Folder.Replace(t, "mtls.yaml", "mode: Permissive", "mode: Strict")
	a.Folder.Issue(t, time.Now().Add(-20*24*time.Hour)) // due, and valid
	a.Apply(t)
	a.Rollout(t)
	a.InForce(t)
	for _, step := range []struct {
		name string
		test func(*testing.T, *stage.Chain)
	}{
		{"a second apply changes nothing", testAgain},
		{"server-side apply takes over", testServerSide},
		{"prune removes what left the mesh", testPrune},
	} {
		started := time.Now()
		if !t.Run(step.name, func(t *testing.T) { step.test(t, a) }) {
			a.Warnings(t)
			return
		}
		t.Logf("%s: %v", step.name, time.Since(started).Round(time.Second))
	}
}

// testAgain: the same commit once more, and one for which `meshless issue` found nothing to do.
func testAgain(t *testing.T, a *stage.Chain) {
	before := stage.Settled(t, a.Namespace)
	first := a.Rendered.Text
	if told := a.Folder.Issue(t, time.Now().Add(-20*24*time.Hour+time.Minute)); !strings.Contains(told, "nothing is due") {
		t.Errorf("a second run says %q", told)
	}
	if diff := cmp.Diff(first, stage.Render(t, a.Folder)); diff != "" {
		t.Errorf("a second render differs:\n%s", diff)
	}
	if out := stage.Must(t, first, "diff", "-f", "-"); out != "" {
		t.Errorf("kubectl diff prints\n%s", out)
	}
	for line := range strings.Lines(stage.Must(t, first, "apply", "-f", "-")) {
		if !strings.HasSuffix(strings.TrimSpace(line), " unchanged") {
			t.Errorf("kubectl apply says %s", line)
		}
	}
	stage.WantSame(t, before, stage.Snapshot(t, a.Namespace))
}

// testServerSide applies on the server's side, over what was applied on the client's, and in a namespace where nothing
// is yet. Neither restarts a pod, twice changes nothing, and renewed certificates are no conflict.
func testServerSide(t *testing.T, a *stage.Chain) {
	const freshNamespace = "gitops-fresh"
	fresh := stage.ChainFolder(t, freshNamespace)
	fresh.Replace(t, "app.yaml", "replicas: 2", "replicas: 0") // it is the objects that count here
	fresh.Replace(t, "app.yaml", "replicas: 1", "replicas: 0")
	fresh.Replace(t, "guest.yaml", "replicas: 1", "replicas: 0")
	stage.NewNamespace(t, freshNamespace)
	fresh.Issue(t, time.Now().Add(-20*24*time.Hour))
	for _, f := range []struct {
		namespace string
		*example.Example
	}{{freshNamespace, fresh}, {a.Namespace, a.Folder}} {
		rendered := stage.Render(t, f.Example)
		stage.Must(t, rendered, "apply", "--server-side", "-f", "-")
		before := stage.Settled(t, f.namespace)
		stage.Must(t, rendered, "apply", "--server-side", "-f", "-")
		stage.Must(t, rendered, "diff", "--server-side", "-f", "-")
		stage.WantSame(t, before, stage.Snapshot(t, f.namespace))
		wantManagers(t, before, rendered)
		f.Issue(t, time.Now())
		renewed := stage.Render(t, f.Example)
		if renewed == rendered {
			t.Errorf("%s: nothing was renewed", f.namespace)
		}
		stage.Must(t, renewed, "apply", "--server-side", "-f", "-")
	}
	a.Rendered = stage.Read(t, stage.Render(t, a.Folder))
	a.Unchanged(t)
}

// wantManagers wants that of those who own fields none but kubectl's apply and the controllers are left: one who
// applied on the client's side would keep fields that a later render drops.
func wantManagers(t *testing.T, all map[string]stage.Object, rendered string) {
	t.Helper()
	applied := 0
	for name, o := range all {
		for _, field := range o.Metadata.ManagedFields {
			switch {
			case field.Manager == "kubectl" && field.Operation == metav1.ManagedFieldsOperationApply:
				applied++
			case field.Manager == "kubectl-client-side-apply" && !strings.HasSuffix(name, "/meshless-identity"):
				t.Errorf("%s: fields are still owned by %s", name, field.Manager)
			}
		}
	}
	if want := strings.Count(rendered, "\nkind: "); applied != want {
		t.Errorf("%d objects are owned by apply, want %d", applied, want)
	}
}

// testPrune takes guest out of the folder. Its Deployment goes, what that owned, and its Secret; everything else stays
// as it is.
func testPrune(t *testing.T, a *stage.Chain) {
	prune(t, a, a.Rendered.Text) // the set learns what there is
	before := stage.Settled(t, a.Namespace)
	a.Folder.Replace(t, "kustomization.yaml", "guest.yaml, ", "")
	a.Folder.Issue(t, time.Now())
	a.Rendered = stage.Read(t, stage.Render(t, a.Folder))
	prune(t, a, a.Rendered.Text)
	var gone []string
	stage.Poll(t, 30*time.Second, func() error {
		now := stage.Snapshot(t, a.Namespace)
		gone = slices.DeleteFunc(slices.Sorted(maps.Keys(before)), func(name string) bool { _, still := now[name]; return still })
		return wantGone(gone)
	})
	a.Pods = slices.DeleteFunc(a.Pods, func(p stage.Replica) bool { return p.App == "guest" })
	a.Unchanged(t)
	a.InForce(t)
}

// wantGone wants a Deployment, its one ReplicaSet and pod, and its Secret.
func wantGone(gone []string) error {
	var kinds []string
	for _, name := range gone {
		kind, rest, _ := strings.Cut(name, "/")
		if !strings.Contains(rest, "guest") {
			return &pruned{gone}
		}
		kinds = append(kinds, kind)
	}
	if want := []string{"Deployment", "Pod", "ReplicaSet", "Secret"}; !slices.Equal(kinds, want) {
		return &pruned{gone}
	}
	return nil
}

type pruned struct{ gone []string }

func (p *pruned) Error() string { return "pruned: " + strings.Join(p.gone, ", ") }

// prune applies, and removes what the set applied before and does not hold any more.
func prune(t *testing.T, a *stage.Chain, manifests string) {
	t.Helper()
	stage.Must(t, manifests, "-n", a.Namespace, "apply", "--server-side", "--force-conflicts", "--prune", "--applyset="+set, "-f", "-")
}
