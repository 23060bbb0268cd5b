//go:build e2e && linux

package upgrade

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/env"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
	"github.com/meshless-dev/meshless/test/program"
)

const namespace = "upgrade"

// edition is the folder of the old command.
func edition(t *testing.T) string {
	t.Helper()
	before := env.EditionBefore()
	program.InHistory(t, before)
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(cache, "meshless/editions", before)
	if _, err := os.Stat(filepath.Join(folder, "meshless")); err != nil {
		program.Missing(t, "the edition before: test/cluster/upgrade/edition.sh builds it (%v)", err)
	}
	return folder
}

// TestUpgrade goes there and back again.
func TestUpgrade(t *testing.T) {
	old := edition(t)
	stage.NewNamespace(t, namespace)
	wire := stage.WatchWire(t, namespace, stage.Marker)
	e := stage.ChainFolder(t, namespace)
	e.Replace(t, "mtls.yaml", "mode: Permissive", "mode: Strict")
	e.Program = filepath.Join(old, "meshless")
	stage.Must(t, e.IdentitySecret(namespace), "apply", "-f", "-")
	e.Issue(t, time.Now())
	git := filepath.Join(t.TempDir(), "git") // the commit to which the way back goes
	if err := os.CopyFS(git, os.DirFS(e.Dir)); err != nil {
		t.Fatal(err)
	}
	first := stage.Render(t, e)
	stage.Must(t, first, "apply", "-f", "-")
	for _, name := range names(t) {
		stage.Rollout(t, namespace, name)
	}
	l := &ledgers{context: t.Context()}
	l.settle(t)

	e.Program = ""
	e.Issue(t, time.Now())
	second := stage.Render(t, e)
	wantSameLeaves(t, first, second)
	t.Run("to this edition", func(t *testing.T) { roll(t, l, first, second, "back", "client", "middle", "front", "guest") })

	restore(t, e, git)
	e.Program = filepath.Join(old, "meshless")
	again := stage.Render(t, e)
	t.Run("and back", func(t *testing.T) { roll(t, l, second, again, "guest", "front", "back", "client", "middle") })
	wire.WantSecret(t)
}

// names are the Deployments of the chain.
func names(t *testing.T) []string {
	t.Helper()
	return strings.Fields(stage.Must(t, "", "-n", namespace, "get", "deployments", "-o", "name"))
}

// restore is `git revert`.
func restore(t *testing.T, e *example.Example, git string) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(e.Dir), os.CopyFS(e.Dir, os.DirFS(git))); err != nil {
		t.Fatal(err)
	}
}

// roll applies what another edition rendered and removes what it no longer has, as a pruning sync does. No pod has
// rolled then. Each Deployment follows in turn, and no request fails meanwhile.
func roll(t *testing.T, l *ledgers, old, now string, order ...string) {
	for _, name := range names(t) {
		stage.Must(t, "", "-n", namespace, "rollout", "pause", name)
	}
	stage.Must(t, now, "apply", "-f", "-")
	if gone := stage.OnlyIn(t, old, now); gone != "" {
		stage.Must(t, gone, "delete", "-f", "-")
	}
	l.await(t, 30)
	for _, deployment := range order {
		started := time.Now()
		stage.Must(t, "", "-n", namespace, "rollout", "resume", "deployment/"+deployment)
		stage.Rollout(t, namespace, "deployment/"+deployment)
		l.follow(t)
		l.await(t, 30)
		t.Logf("%s has rolled: %v", deployment, time.Since(started).Round(time.Second))
		if t.Failed() {
			return
		}
	}
	l.wantNoFailure(t)
	for _, pod := range stage.Pods(t, namespace, "part-of=chain") {
		metrics := stage.Metrics(t, namespace, pod.Name)
		if n := stage.Opened(t, metrics, "inbound", "plaintext") + stage.Opened(t, metrics, "outbound", "passthrough"); n > 0 {
			t.Errorf("%s has %v connections in the clear", pod.Name, n)
		}
		if slices.Contains([]string{"back", "middle", "front"}, pod.Labels["app"]) && stage.Opened(t, metrics, "inbound", "mutual_tls") == 0 {
			t.Errorf("%s took no connection by mutual TLS", pod.Name)
		}
	}
}

// wantSameLeaves: the state of the old edition is valid, so the new one keeps every Secret as it is.
func wantSameLeaves(t *testing.T, old, now string) {
	t.Helper()
	before, after := leaves(t, old), leaves(t, now)
	if len(before) == 0 {
		t.Error("the old edition made no leaf")
	}
	for name, leaf := range before {
		if after[name] != leaf {
			t.Errorf("Secret %s changed although nothing was due", name)
		}
	}
}

func leaves(t *testing.T, manifests string) map[string]string {
	t.Helper()
	objects, err := lab.Parse([]byte(manifests))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for name, secret := range objects.Secrets {
		if secret.Annotations[api.IdentityAnnotation] != "" {
			found[name] = string(secret.Data[api.LeafFile]) + string(secret.Data[api.SealedKeyFile])
		}
	}
	return found
}
