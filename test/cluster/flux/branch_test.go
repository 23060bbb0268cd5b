//go:build e2e && linux

package flux

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/program"
)

// testBranch is examples/flux from beginning to end: the shop comes into a cluster that has nothing of it, not even the
// namespace.
func testBranch(t *testing.T, r *room) {
	const name = "flux-shop"
	e := example.Copy(t, "../../../examples/shop")
	e.Replace(t, "kustomization.yaml", "namespace: acme-shop", "namespace: "+name)
	a := r.newApp(t, name, e)
	e.Issue(t, time.Now().Add(-20*24*time.Hour)) // due, and valid
	bootstrap(t, a)
	a.push(t)
	stage.Must(t, a.objects(t, "bootstrap.yaml", "")+"---\n"+a.objects(t, "sync.yaml", ""), "apply", "-f", "-")
	a.reconcile(t, name+"-bootstrap", "main", applied)
	a.sync(t)
	for _, step := range []struct {
		name string
		test func(*testing.T, *app)
	}{
		{"in the mesh", testMeshed},
		{"a second sync writes nothing", testQuiet},
		{"drift is repaired", testDrift},
		{"renewal is a commit", testRenewal},
		{"prune", testPrune},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.test(t, a) }) {
			return
		}
	}
}

// bootstrap is docs/flux.md, "Bootstrap", line by line: folder bootstrap/NAME of main, and the key of Flux itself.
func bootstrap(t *testing.T, a *app) {
	t.Helper()
	if out, err := stage.Kubectl("", "delete", "namespace", a.name, "--ignore-not-found"); err != nil { // of a run that was killed
		t.Fatalf("%v%s", err, out)
	}
	t.Cleanup(func() { _, _ = stage.Kubectl("", "delete", "namespace", a.name, "--wait=false") })
	work := t.TempDir()
	write(t, filepath.Join(work, "cluster.txt"), a.Cluster.String()+"\n")
	sops := filepath.Dir(program.Find(t, "sops", "test/sops/programs.sh builds it"))
	run(t, work, `meshless keygen -o age.agekey
kubectl -n `+system+` create secret generic sops-age --from-file=age.agekey --dry-run=client -o yaml | kubectl apply -f -`)
	folder := filepath.Join(a.checks, "bootstrap", a.name)
	write(t, filepath.Join(folder, "namespace.yaml"), run(t, work, "kubectl create namespace "+a.name+" --dry-run=client -o yaml"))
	run(t, work, `kubectl -n `+a.name+` create secret generic meshless-identity --from-file=identity.txt=cluster.txt \
  --dry-run=client -o yaml >`+folder+`/meshless-identity.yaml
`+sops+`/sops encrypt --in-place --encrypted-regex '^data$' --age "$(grep -o 'age1[a-z0-9]*' age.agekey)" `+folder+`/meshless-identity.yaml`)
	if text := read(t, filepath.Join(folder, "meshless-identity.yaml")); !strings.Contains(text, "identity.txt: ENC[") {
		t.Fatalf("the identity is not encrypted:\n%s", text)
	}
}

// testMeshed: all pods are ready with their proxies, and the shop's own calls are mutual TLS.
func testMeshed(t *testing.T, a *app) {
	pods := stage.Pods(t, a.name, "")
	if len(pods) != 4 {
		t.Errorf("%d pods, want 4", len(pods))
	}
	for _, p := range pods {
		if _, ok := stage.Container(p, api.ProxyName); !ok || !stage.IsReady(p) {
			t.Errorf("pod %s is not ready, or not in the mesh", p.Name)
		}
	}
	stage.WantNoRestarts(t, pods)
	if n := stage.OpenedBy(t, a.name, "acme-db-0", "inbound", "mutual_tls"); n == 0 {
		t.Error("nobody has called the db with mutual TLS, and api is ready")
	}
	if n := stage.OpenedBy(t, a.name, "acme-db-0", "inbound", "plaintext"); n > 0 {
		t.Errorf("%v connections came to the db in the clear", n)
	}
}

// testQuiet: a render without a change makes no commit, and a sync without a commit writes nothing.
func testQuiet(t *testing.T, a *app) {
	before, commit := stage.Settled(t, a.name), git(t, a.origin, "rev-parse", a.branch())
	a.push(t)
	if now := git(t, a.origin, "rev-parse", a.branch()); now != commit {
		t.Errorf("a render without a change has made commit %s", now)
	}
	a.sync(t)
	a.sync(t)
	stage.WantSame(t, before, stage.Snapshot(t, a.name))
}

// testDrift changes by hand what Flux has applied.
func testDrift(t *testing.T, a *app) {
	secret, mesh := "secret/"+api.NamePrefix+"statefulset-acme-db", ""
	for line := range strings.FieldsSeq(stage.Must(t, "", "-n", a.name, "get", "configmaps", "-o", "name")) {
		if strings.HasPrefix(line, "configmap/"+api.NamePrefix+"mesh") {
			mesh = line
		}
	}
	want := stage.Must(t, "", "-n", a.name, "get", mesh, "-o", "jsonpath={.data}")
	before := stage.Settled(t, a.name)
	stage.Must(t, "", "-n", a.name, "delete", secret)
	stage.Must(t, "", "-n", a.name, "patch", mesh, "--type=merge", "-p", `{"data":{"mesh.yaml":"nothing"}}`)
	stage.Must(t, "", "-n", a.name, "set", "image", "deployment/acme-web", api.ProxyName+"=meshless-test/app:latest")
	stage.Must(t, "", "-n", a.name, "scale", "deployment/acme-web", "--replicas=1")
	a.sync(t)
	if got := stage.Must(t, "", "-n", a.name, "get", mesh, "-o", "jsonpath={.data}"); got != want {
		t.Errorf("the mesh map is %s", got)
	}
	image := stage.Must(t, "", "-n", a.name, "get", "deployment/acme-web", "-o", `jsonpath={.spec.replicas} {.spec.template.spec.initContainers[?(@.name=="`+api.ProxyName+`")].image}`)
	if want := "2 " + api.ProxyImage; image != want {
		t.Errorf("the Deployment has %s, want %s", image, want)
	}
	stage.Must(t, "", "-n", a.name, "get", secret)
	now := stage.Settled(t, a.name)
	for name := range before {
		touched := strings.Contains(name, "acme-web") || strings.EqualFold(name, secret) || strings.EqualFold(name, mesh)
		if !touched && before[name].Metadata.ResourceVersion != now[name].Metadata.ResourceVersion && !strings.HasPrefix(name, "Pod/") {
			t.Errorf("%s was written", name)
		}
	}
}

// testRenewal: new certificates reach the proxies by a commit, and no pod restarts.
func testRenewal(t *testing.T, a *app) {
	before := stage.Settled(t, a.name)
	a.Issue(t, time.Now())
	a.push(t)
	a.sync(t)
	now := stage.Snapshot(t, a.name)
	var changed []string
	for name := range now {
		if before[name].Metadata.UID != now[name].Metadata.UID || before[name].Metadata.ResourceVersion != now[name].Metadata.ResourceVersion && !strings.HasPrefix(name, "Pod/") {
			changed = append(changed, name)
		}
	}
	slices.Sort(changed)
	var want []string
	for _, workload := range []string{"cronjob-acme-report", "deployment-acme-api", "deployment-acme-web", "statefulset-acme-db"} {
		want = append(want, "Secret/"+api.NamePrefix+workload)
	}
	if diff := cmp.Diff(want, changed); diff != "" {
		t.Errorf("the renewal changed other objects:\n%s", diff)
	}
	leaf := stage.Read(t, a.rendered(t)).Leaves["spiffe://"+api.DefaultDomain+"/ns/"+a.name+"/statefulset/acme-db"]
	stage.Poll(t, 120*time.Second, func() error {
		if got := stage.Metric(t, stage.Metrics(t, a.name, "acme-db-0"), "meshless_leaf_not_after_timestamp_seconds"); got != float64(leaf.NotAfter.Unix()) {
			return fmt.Errorf("the proxy of the db uses a certificate until %v, want %d", got, leaf.NotAfter.Unix())
		}
		return nil
	})
	stage.WantNoRestarts(t, stage.Pods(t, a.name, ""))
}

// testPrune takes a workload out of the folder, and then the Kustomization out of the cluster.
func testPrune(t *testing.T, a *app) {
	before := stage.Settled(t, a.name)
	a.Replace(t, "base/kustomization.yaml", ", report.yaml", "")
	a.Edit(t, "kustomization.yaml", func(text string) string {
		start := strings.Index(text, "      - select: {kind: CronJob, name: report}")
		end := start + strings.Index(text[start:], "  - source:")
		return text[:start] + text[end:]
	})
	a.Issue(t, time.Now())
	a.push(t)
	a.sync(t)
	var gone []string
	now := stage.Snapshot(t, a.name)
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if _, still := now[name]; !still {
			gone = append(gone, name)
		}
	}
	if diff := cmp.Diff([]string{"CronJob/acme-report", "Secret/" + api.NamePrefix + "cronjob-acme-report"}, gone); diff != "" {
		t.Errorf("pruned:\n%s", diff)
	}
	stage.Must(t, "", "-n", system, "delete", "kustomization", a.name, "--timeout=60s")
	stage.Poll(t, 60*time.Second, func() error {
		left := slices.Sorted(maps.Keys(stage.Snapshot(t, a.name)))
		left = slices.DeleteFunc(left, func(name string) bool {
			return name == "ConfigMap/kube-root-ca.crt" || name == "Secret/meshless-identity"
		})
		if len(left) > 0 {
			return errors.New("still there: " + strings.Join(left, ", "))
		}
		return nil
	})
}
