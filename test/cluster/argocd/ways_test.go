//go:build e2e && linux

package argocd

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/program"
)

// declared makes the Application of a file of examples/argocd, of the repository, with what is said of path.
func declared(t *testing.T, file, name string, r *repository, path string) *application {
	t.Helper()
	text, err := os.ReadFile("../../../examples/argocd/" + file)
	if err != nil {
		t.Fatal(err)
	}
	a := &application{Name: name, Automated: strings.Contains(string(text), "automated:")}
	replaced := strings.NewReplacer("  name: shop\n", "  name: "+name+"\n", "https://github.com/OWNER/REPOSITORY", r.URL, "targetRevision: main", "targetRevision: "+r.Branch,
		"path: shop", "path: "+path, "namespace: acme-shop", "namespace: "+name).Replace(string(text))
	stage.Must(t, replaced, "apply", "--validate=strict", "-f", "-")
	t.Cleanup(func() { a.end(t) })
	return a
}

// testRendered syncs examples/shop from a branch of plain manifests, by itself.
func testRendered(t *testing.T, h *host) {
	const name = "argo-rendered"
	e := example.Copy(t, "../../../examples/shop")
	e.Replace(t, "kustomization.yaml", "acme-shop", name)
	stage.NewNamespace(t, name)
	stage.Must(t, e.IdentitySecret(name), "apply", "-f", "-")
	e.Issue(t, time.Now())
	r := h.repository(t, name, "rendered/shop")
	commit := r.CommitFiles(t, map[string]string{"manifests.yaml": stage.Render(t, e)})
	a := declared(t, "rendered.yaml", name, r, ".")
	a.InForce(t, commit)
	wantMeshed(t, name, 4)
	a.WantQuiet(t)
	testSelfHeal(t, a)
	e.Replace(t, "base/web.yaml", "meshless.dev/permissive-ports: \"8080\"", "meshless.dev/inject: disabled")
	e.Issue(t, time.Now())
	commit = r.CommitFiles(t, map[string]string{"manifests.yaml": stage.Render(t, e)})
	testPrune(t, a, commit, "meshless-deployment-acme-web")
}

// testSelfHeal: what somebody did to our objects is undone, no pod is replaced, and then it is quiet.
func testSelfHeal(t *testing.T, a *application) {
	t.Helper()
	find := func(kind, prefix string) string {
		for object := range strings.FieldsSeq(stage.Must(t, "", "-n", a.Name, "get", kind, "-o", "name")) {
			if strings.HasPrefix(object, prefix) {
				return object
			}
		}
		t.Fatalf("there is no %s in %s", prefix, a.Name)
		return ""
	}
	const uids = `jsonpath={.items[*].metadata.uid}`
	pods := stage.Must(t, "", "-n", a.Name, "get", "pods", "-o", uids)
	secret, mesh := find("secrets", "secret/meshless-statefulset-"), find("configmaps", "configmap/meshless-mesh")
	before := stage.Must(t, "", "-n", a.Name, "get", mesh, "-o", "jsonpath={.data}")
	stage.Must(t, "", "-n", a.Name, "delete", secret)
	stage.Must(t, "", "-n", a.Name, "patch", mesh, "--type=merge", "-p", `{"data": {"mesh.yaml": "edited"}}`)
	stage.Poll(t, bound, func() error {
		if _, err := stage.Kubectl("", "-n", a.Name, "get", secret); err != nil {
			return err
		}
		now, err := stage.Kubectl("", "-n", a.Name, "get", mesh, "-o", "jsonpath={.data}")
		if err == nil && now != before {
			err = fmt.Errorf("%s is still as somebody edited it", mesh)
		}
		return err
	})
	a.InForce(t, "")
	if now := stage.Must(t, "", "-n", a.Name, "get", "pods", "-o", uids); now != pods {
		t.Errorf("pods were replaced: %s instead of %s", now, pods)
	}
	a.WantQuiet(t)
}

// testPrune syncs a commit that takes a workload out of the mesh: its Secret goes, and its sidecars; the others stay.
func testPrune(t *testing.T, a *application, commit, secret string) {
	t.Helper()
	a.Update(t, commit)
	if out := stage.Must(t, "", "-n", a.Name, "get", "secret", secret, "--ignore-not-found", "-o", "name"); out != "" {
		t.Errorf("%s is still there", out)
	}
	var in, out int
	for _, pod := range stage.Pods(t, a.Name, "") {
		if pod.DeletionTimestamp != nil {
			continue
		}
		if pod.Annotations[api.WorkloadAnnotation] != "" {
			in++
		} else {
			out++
		}
	}
	if in == 0 || out == 0 {
		t.Errorf("%d pods in the mesh and %d outside of it, want some of both", in, out)
	}
}

// testPlugin syncs the source by the plugin, from nothing to a mesh, and nobody reads a request on the wire.
func testPlugin(t *testing.T, h *host) {
	const name = "argo-plugin"
	stage.NewNamespace(t, name+"-wire")
	e := app(t, name, "", nil)
	e.Issue(t, time.Now().Add(-20*24*time.Hour)) // due, and valid
	r := h.repository(t, name, "main")
	commit := r.Commit(t, e.Dir)
	wire := stage.WatchWire(t, name+"-wire", marker(name))
	a := declared(t, "application.yaml", name, r, ".")
	wantDue(t, a, commit)
	wantMeshed(t, name, 2)
	testRenewal(t, a, e, r)
	a.WantQuiet(t)
	stage.WantEncrypted(t, name, "")
	wire.WantSecret(t)
	e.Edit(t, "pod.yaml", func(text string) string {
		return strings.Replace(text, "metadata: {labels: {app: caller}}", "metadata: {labels: {app: caller}, annotations: {meshless.dev/inject: disabled}}", 1)
	})
	e.Issue(t, time.Now())
	testPrune(t, a, r.Commit(t, e.Dir), "meshless-deployment-caller")
}

// testBuildOptions syncs the source by kustomize with the flags, and then without them.
func testBuildOptions(t *testing.T, h *host) {
	const name = "argo-build-options"
	e := app(t, name, "", nil)
	e.Issue(t, time.Now())
	r := h.repository(t, name, "main")
	commit := r.Commit(t, e.Dir)
	a := apply(t, name, source(r, ".", ""), `{"automated": {"prune": true, "selfHeal": true}}`)
	a.InForce(t, commit)
	wantMeshed(t, name, 2)
	a.WantQuiet(t)
	testSelfHeal(t, a)
	testHydrator(t, h)
	testLostFlags(t, a)
}

// testHydrator lets the source hydrator render, by the same flags, and syncs the branch that it commits.
func testHydrator(t *testing.T, h *host) {
	t.Helper()
	const name = "argo-hydrator"
	e := app(t, name, "", nil)
	e.Issue(t, time.Now())
	r := h.repository(t, name, "main")
	r.Commit(t, e.Dir)
	a := &application{Name: name}
	a.create(t, fmt.Sprintf(`"sourceHydrator": {"drySource": {"repoURL": %q, "targetRevision": %q, "path": "."}, "syncSource": {"targetBranch": "hydrated", "path": "app"}}`, r.URL, r.Branch), `{"automated": {}}`)
	t.Cleanup(func() { a.end(t) })
	a.InForce(t, "")
	wantMeshed(t, name, 2)
	hydrated := r.run(t, "", "--git-dir", r.git, "show", "hydrated:app/manifest.yaml")
	e.Verify(t, hydrated)
	a.WantInSync(t)
}

// wantDue syncs a commit whose certificates are due: that succeeds, and the Application is Degraded.
func wantDue(t *testing.T, a *application, commit string) {
	t.Helper()
	a.Start(t, commit)
	if state := a.Ended(t, bound).Status.OperationState; state.Phase != "Succeeded" {
		t.Fatalf("%s: the sync of certificates that are due %s: %s", a.Name, state.Phase, state.Message)
	}
	stage.Poll(t, bound, func() error {
		s, err := a.get()
		if err == nil && (s.Status.Sync.Status != "Synced" || s.Status.Health.Status != "Degraded") {
			err = fmt.Errorf("%s is %s and %s, and its certificates are due", a.Name, s.Status.Sync.Status, s.Status.Health.Status)
		}
		return err
	})
}

// testRenewal: what is due is renewed by a commit that replaces no pod.
func testRenewal(t *testing.T, a *application, e *example.Example, r *repository) {
	t.Helper()
	const uids = `jsonpath={.items[*].metadata.uid}`
	pods := stage.Must(t, "", "-n", a.Name, "get", "pods", "-o", uids)
	secret := stage.Must(t, "", "-n", a.Name, "get", "secret", "meshless-statefulset-db", "-o", "jsonpath={.data}")
	e.Issue(t, time.Now())
	a.Sync(t, r.Commit(t, e.Dir))
	if now := stage.Must(t, "", "-n", a.Name, "get", "secret", "meshless-statefulset-db", "-o", "jsonpath={.data}"); now == secret {
		t.Error("nothing was renewed")
	}
	if now := stage.Must(t, "", "-n", a.Name, "get", "pods", "-o", uids); now != pods {
		t.Errorf("a renewal replaced pods: %s instead of %s", now, pods)
	}
}

// testHelm syncs a chart: Argo CD has no post-renderer, so the plugin renders it (docs/helm.md has the folder mesh/).
func testHelm(t *testing.T, h *host) {
	const name = "argo-helm"
	chart := t.TempDir()
	if err := os.CopyFS(chart, os.DirFS("testdata/chart")); err != nil {
		t.Fatal(err)
	}
	e := example.Copy(t, filepath.Join(chart, "mesh"))
	e.Replace(t, "kustomization.yaml", "NAMESPACE", name)
	stage.NewNamespace(t, name)
	stage.Must(t, e.IdentitySecret(name), "apply", "-f", "-")
	manifests, err := exec.CommandContext(t.Context(), program.Find(t, "helm3", "test/consumers/helm.sh builds it"), "template", name, chart, "--namespace", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	e.Write(t, "chart.yaml", string(manifests))
	e.Issue(t, time.Now())
	mesh := filepath.Join(chart, "mesh")
	if err := errors.Join(os.RemoveAll(mesh), os.CopyFS(mesh, os.DirFS(e.Dir)), os.Remove(filepath.Join(mesh, "chart.yaml"))); err != nil {
		t.Fatal(err)
	}
	r := h.repository(t, name, "main")
	commit := r.Commit(t, chart)
	a := apply(t, name, source(r, ".", `, "plugin": {"name": "meshless"}`), `{}`)
	a.Sync(t, commit)
	wantMeshed(t, name, 2)
	a.WantQuiet(t)
}
