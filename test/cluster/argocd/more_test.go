//go:build e2e && linux

package argocd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/cluster/stage"
)

// set makes an Application of each folder of a repository.
const set = `{"apiVersion": "argoproj.io/v1alpha1", "kind": "ApplicationSet", "metadata": {"name": "argo-set", "namespace": "argocd"},
"spec": {"goTemplate": true, "syncPolicy": {"preserveResourcesOnDeletion": true}, "generators": [{"git": {"repoURL": %q, "revision": %q, "directories": [{"path": "*"}]}}],
  "template": {"metadata": {"name": "{{.path.basename}}"},
    "spec": {"project": "default", "source": {"repoURL": %q, "targetRevision": %q, "path": "{{.path.path}}"},
      "destination": {"server": "https://kubernetes.default.svc", "namespace": "{{.path.basename}}"},
      "syncPolicy": {"automated": {"prune": true}, "syncOptions": ["CreateNamespace=true", "ServerSideApply=true"]}}}}}`

// testSet: Argo CD makes the Applications and the namespaces. Pods wait for the identity, which nobody put there yet,
// and go on by themselves when it comes.
func testSet(t *testing.T, h *host) {
	r := h.repository(t, "argo-set", "rendered")
	files := map[string]string{}
	identities := map[string]string{}
	for _, name := range []string{"argo-set-a", "argo-set-b"} {
		e := app(t, name, "", nil)
		stage.Must(t, "", "delete", "namespace", name)
		e.Issue(t, time.Now())
		files[name+"/manifests.yaml"], identities[name] = stage.Render(t, e), e.IdentitySecret(name)
	}
	commit := r.CommitFiles(t, files)
	t.Cleanup(func() { // before the namespaces, which it would make anew; its Applications go with it
		if _, err := stage.Kubectl("", "-n", namespace, "delete", "applicationset", "argo-set", "--cascade=foreground"); err != nil {
			t.Error(err)
		}
	})
	stage.Must(t, fmt.Sprintf(set, r.URL, r.Branch, r.URL, r.Branch), "apply", "--validate=strict", "-f", "-")
	for name, identity := range identities {
		a := &application{Name: name, Automated: true, Options: []string{"CreateNamespace=true", "ServerSideApply=true"}}
		stage.Poll(t, bound, func() error {
			s, err := a.get()
			if err == nil && (s.Status.Sync.Status != "Synced" || s.Status.Health.Status != "Progressing") {
				err = fmt.Errorf("%s is %s and %s, want Synced and Progressing while the identity is missing", name, s.Status.Sync.Status, s.Status.Health.Status)
			}
			return err
		})
		stage.Must(t, identity, "apply", "-f", "-")
	}
	for name := range identities {
		a := &application{Name: name, Automated: true, Options: []string{"ServerSideApply=true"}}
		stage.Poll(t, bound, func() error { // the kubelet tries to mount again after up to two minutes
			s, err := a.get()
			if err == nil && s.Status.Health.Status != "Healthy" {
				err = fmt.Errorf("%s is %s", name, s.Status.Health.Status)
			}
			return err
		})
		a.InForce(t, commit)
		wantMeshed(t, name, 2)
		a.WantQuiet(t)
	}
}

// testKpt syncs a package that `meshless issue --kpt` rendered in place, as a folder of manifests: what is for the
// function alone is marked, so that Argo CD leaves it alone. With Replace=true as well no pod is replaced.
func testKpt(t *testing.T, h *host) {
	const name = "argo-kpt"
	e := app(t, name, "", func(text string) string {
		return strings.NewReplacer("metadata: {name: db}", "metadata: {name: db, namespace: "+name+"}", "metadata: {name: caller}", "metadata: {name: caller, namespace: "+name+"}").Replace(text)
	})
	if err := errors.Join(os.Remove(filepath.Join(e.Dir, "kustomization.yaml")), os.RemoveAll(filepath.Join(e.Dir, "mtls"))); err != nil {
		t.Fatal(err)
	}
	e.IssuePackage(t, time.Now())
	r := h.repository(t, name, "main")
	commit := r.Commit(t, e.Dir)
	a := apply(t, name, source(r, ".", `, "directory": {"recurse": true}`), `{}`)
	a.Sync(t, commit)
	wantMeshed(t, name, 2)
	a.WantQuiet(t)
	const uids = `jsonpath={.items[*].metadata.uid}`
	pods := stage.Must(t, "", "-n", a.Name, "get", "pods", "-o", uids)
	a.Options = []string{"Replace=true"}
	a.Sync(t, commit)
	if now := stage.Must(t, "", "-n", a.Name, "get", "pods", "-o", uids); now != pods {
		t.Errorf("Replace=true replaced pods: %s instead of %s", now, pods)
	}
	a.WantInSync(t)
}

// testLostFlags: without the flags kustomize fails, or leaves the function out. The tripwire makes the sync fail then,
// and the mesh stays as it is.
func testLostFlags(t *testing.T, a *application) {
	t.Helper()
	before := settled(t, a.Name)
	setFlags(t, "--enable-alpha-plugins --enable-exec", "")
	wantSeen(t, a, "external plugins disabled")
	a.Start(t, "")
	wantRefused(t, a, "external plugins disabled")
	setFlags(t, "", "--enable-alpha-plugins")
	wantSeen(t, a, "meshless-function-did-not-run") // and with that, it is synced
	wantRefused(t, a, "meshless-function-did-not-run")
	wantMeshed(t, a.Name, 2)
	now := settled(t, a.Name)
	for name, version := range before {
		if now[name] != version {
			t.Errorf("%s was %s and is %s", name, version, now[name])
		}
	}
}

// setFlags gives kustomize other flags, until the test ends.
func setFlags(t *testing.T, old, flags string) {
	t.Helper()
	set := func(flags string) {
		stage.Must(t, "", "-n", namespace, "patch", "configmap", "argocd-cm", "--type=merge", "-p", fmt.Sprintf(`{"data": {"kustomize.buildOptions": %q}}`, flags))
	}
	set(flags)
	t.Cleanup(func() { set(old) })
}

// wantSeen waits until Argo CD shows something of what it rendered: the settings come to the repo-server in their time.
func wantSeen(t *testing.T, a *application, what string) {
	t.Helper()
	stage.Poll(t, bound, func() error {
		s := a.Refresh(t)
		said := fmt.Sprintf("%v %v", s.Status.Conditions, s.Status.Resources)
		if s.Status.Sync.Status == "Synced" || !strings.Contains(said, what) {
			return fmt.Errorf("%s is %s, and nothing says %q: %s", a.Name, s.Status.Sync.Status, what, said)
		}
		return nil
	})
}

// wantRefused waits for a sync that fails, and says why. One that is automated is tried again after that.
func wantRefused(t *testing.T, a *application, why string) {
	t.Helper()
	stage.Poll(t, bound, func() error {
		s, err := a.get()
		if err != nil {
			return err
		}
		state := s.Status.OperationState
		said := fmt.Sprintf("%s: %s %v", state.Phase, state.Message, state.SyncResult.Resources)
		if state.Phase == "Succeeded" || !strings.Contains(said, why) {
			return fmt.Errorf("the sync without the function: %s, want a failure that says %q", said, why)
		}
		return nil
	})
}
