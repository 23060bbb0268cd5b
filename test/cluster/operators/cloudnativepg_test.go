//go:build e2e && linux

package operators

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/program"
)

const (
	pgNamespace       = "operators-pg"
	operatorNamespace = "cnpg-system" // says its manifest
	pgMarker          = "a-row-of-the-database"
	instances         = "cnpg.io/cluster=pg,cnpg.io/podRole=instance"

	// pgConfig is the example of docs/databases.md, with another client.
	pgConfig = `  workloads:
    declared:
      - kind: Cluster
        name: pg
        namespace: ` + pgNamespace + `
        selector:
          matchLabels: {cnpg.io/cluster: pg}
          matchExpressions: [{key: cnpg.io/poolerName, operator: DoesNotExist}]
        ports: [{name: postgresql, port: 5432}, {name: metrics, port: 9187}, {name: status, port: 8000}]
        annotations:
          meshless.dev/tls-passthrough-ports: "8000"
          meshless.dev/permissive-ports: "9187"
        services:
          - {name: pg-rw, ports: [{name: postgres, port: 5432}]}
          - {name: pg-ro, ports: [{name: postgres, port: 5432}]}
          - {name: pg-r, ports: [{name: postgres, port: 5432}]}
  authorization:
    rules:
      - to: {kind: Cluster, name: pg}
        ports: [5432]
        from: [{kind: Cluster, name: pg}, {kind: Pod, name: client}]
`
)

// TestCloudNativePG installs the operator, and lets it make a cluster of two instances; the steps use it.
func TestCloudNativePG(t *testing.T) {
	requirePolicies(t)
	installOperator(t)
	stage.NewNamespace(t, pgNamespace)
	makeDisks(t)
	wire := stage.WatchWire(t, pgNamespace, pgMarker, "hunter2")
	manifests, err := os.ReadFile("testdata/pg.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m := deploy(t, pgNamespace, string(manifests), pgConfig, "cnpg.io/cluster=pg")
	stage.Ready(t, pgNamespace, "pod/client", "pod/other")
	started := time.Now()
	makeCluster(t, m)
	t.Logf("both instances serve after %v", time.Since(started).Round(time.Second))

	for _, step := range []struct {
		name string
		test func(*testing.T)
	}{
		{"a client of the mesh writes and reads", m.testSQL},
		{"who may not is refused, in the mesh and outside", m.testSQLStrangers},
		{"leaves are renewed under load", m.testPgRenewal},
		{"the primary is deleted, and the replica takes over", m.testFailover},
		{"all is well again after deaths", m.testPgChaos},
	} {
		if !t.Run(step.name, step.test) {
			break // what follows would only tell it again
		}
	}
	m.wantInbound(t, instances)
	wire.WantSecret(t)
}

// installOperator applies the manifest of the operator's release, with the image of ours. The limit of its CPU is left
// out: it is of a machine with more cores.
func installOperator(t *testing.T) {
	t.Helper()
	how := "test/cluster/operators/cloudnative-pg.sh builds it, and test/up.sh makes an image of it"
	manifest := filepath.Join(filepath.Dir(program.Find(t, "cloudnative-pg", how)), "cloudnative-pg.yaml")
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	release := string(text)
	for _, change := range [][2]string{
		{"ghcr.io/cloudnative-pg/cloudnative-pg:", "meshless-test/cloudnative-pg:"},
		{"imagePullPolicy: Always", "imagePullPolicy: Never"},
		{"limits:\n            cpu: 100m\n", "limits:\n"},
	} {
		if !strings.Contains(release, change[0]) {
			t.Fatalf("%s has no %q: this test does not know it", manifest, change[0])
		}
		release = strings.ReplaceAll(release, change[0], change[1])
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := stage.Kubectl("", "-n", operatorNamespace, "logs", "deployment/cnpg-controller-manager", "--tail=40")
			t.Logf("--- the operator ---\n%s", log)
		}
		if os.Getenv("KEEP") != "" {
			return
		}
		if _, err := stage.Kubectl(release, "delete", "--ignore-not-found", "-f", "-"); err != nil {
			t.Error(err)
		}
	})
	// The definitions are too large for the annotation of a client-side apply.
	stage.Must(t, release, "apply", "--server-side", "--force-conflicts", "-f", "-")
	stage.Rollout(t, operatorNamespace, "deployment/cnpg-controller-manager")
}

// makeDisks gives the cluster volumes, as it has no provisioner.
func makeDisks(t *testing.T) {
	t.Helper()
	volumes := "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: operators}\nprovisioner: kubernetes.io/no-provisioner\n"
	for n := range 3 {
		volumes += fmt.Sprintf(`---
apiVersion: v1
kind: PersistentVolume
metadata: {name: operators-%[1]d}
spec:
  storageClassName: operators
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: /var/lib/meshless-operators/%[1]d}
`, n+1)
	}
	stage.Must(t, "", "-n", pgNamespace, "apply", "-f", "testdata/disks.yaml")
	stage.Ready(t, pgNamespace, "pod/disks")
	stage.Must(t, volumes, "apply", "-f", "-")
	t.Cleanup(func() {
		if os.Getenv("KEEP") != "" {
			return
		}
		for _, args := range [][]string{
			{"-n", pgNamespace, "delete", "cluster.postgresql.cnpg.io", "pg", "--ignore-not-found", "--cascade=foreground"},
			{"-n", pgNamespace, "exec", "disks", "--", "bash", "-c", "rm -rf /disks/*"},
		} {
			if _, err := stage.Kubectl("", args...); err != nil {
				t.Error(err)
			}
		}
		if _, err := stage.Kubectl(volumes, "delete", "--wait=false", "-f", "-"); err != nil {
			t.Error(err)
		}
	})
}

// makeCluster makes the Cluster, once the operator's webhook answers, and waits for its instances. Every pod that the
// operator makes on the way, those of Jobs too, is looked at as long as it is there.
func makeCluster(t *testing.T, m *mesh) {
	t.Helper()
	stage.Eventually(t, func() error {
		_, err := stage.Kubectl("", "-n", pgNamespace, "apply", "-f", "testdata/cluster.yaml")
		return err
	})
	seen := map[string]bool{}
	stage.Poll(t, 6*time.Minute, func() error {
		for _, pod := range stage.Pods(t, pgNamespace, "cnpg.io/cluster=pg") {
			if role := pod.Labels["cnpg.io/jobRole"]; role != "" && !seen[role] {
				seen[role] = true
				if got := identity(pod); got != m.id("cluster/pg") {
					t.Errorf("%s, of a Job, was injected for %q", pod.Name, got)
				}
			}
		}
		return healthy()
	})
	if !seen["initdb"] || !seen["join"] {
		t.Errorf("the operator's Jobs were %v, want initdb and join", seen)
	}
	for _, pod := range m.awaitMeshed(t, instances, "cluster/pg", 2) {
		t.Logf("%s is a %s", pod.Name, pod.Labels["cnpg.io/instanceRole"])
	}
	sql(t, "client", "pg-rw", "create table orders (text text)")
}

// healthy is nil when the operator says that both instances serve.
func healthy() error {
	status, err := stage.Kubectl("", "-n", pgNamespace, "get", "cluster.postgresql.cnpg.io", "pg", "-o", "jsonpath={.status.readyInstances} {.status.phase}")
	if err == nil && status != "2 Cluster in healthy state" {
		err = fmt.Errorf("the cluster has %q", status)
	}
	return err
}

func primary(t *testing.T) string {
	t.Helper()
	return stage.Must(t, "", "-n", pgNamespace, "get", "cluster.postgresql.cnpg.io", "pg", "-o", "jsonpath={.status.currentPrimary}")
}

// sql lets a pod run a statement at a host until it succeeds: a Service needs a moment until it has learned who leads.
func sql(t *testing.T, pod, host, statement string) (out string) {
	t.Helper()
	stage.Poll(t, time.Minute, func() (err error) {
		out, err = trySQL(pod, host, statement)
		return err
	})
	return out
}

func trySQL(pod, host, statement string) (string, error) {
	out, err := stage.Kubectl("", "-n", pgNamespace, "exec", pod, "-c", "sql", "--", "timeout", "10", "psql", "-h", host, "-qAt", "-c", statement)
	return strings.TrimSpace(out), err
}

// testSQL writes at the primary, and reads at each Service. The replica has what was written by replication.
func (m *mesh) testSQL(t *testing.T) {
	sql(t, "client", "pg-rw", "insert into orders values ('first: "+pgMarker+"')")
	for host, replica := range map[string]string{"pg-rw": "f", "pg-ro": "t", "pg-r": ""} {
		stage.Eventually(t, func() error {
			out, err := trySQL("client", host, "select pg_is_in_recovery(), count(*) from orders where text like 'first%'")
			if err == nil && (!strings.HasPrefix(out, replica) || !strings.HasSuffix(out, "|1")) {
				err = fmt.Errorf("%s says %q", host, out)
			}
			return err
		})
	}
	streaming(t)
	m.wantInbound(t, instances)
	for _, pod := range m.pods(t, instances) { // the operator, outside of the mesh, by TLS of its own
		if stage.OpenedBy(t, m.namespace, pod.Name, "inbound", "tls_passthrough") == 0 {
			t.Errorf("the operator has not asked %s", pod.Name)
		}
	}
	m.awaitRows(t, 10)
}

// streaming waits until the primary has a replica that streams.
func streaming(t *testing.T) {
	t.Helper()
	stage.Poll(t, 2*time.Minute, func() error {
		out, err := stage.Kubectl("", "-n", pgNamespace, "exec", primary(t), "-c", "postgres", "--", "psql", "-U", "postgres", "-qAt", "-c",
			"select application_name, state from pg_stat_replication")
		if err == nil && strings.Count(out, "|streaming") != 1 {
			err = fmt.Errorf("replicas: %q", out)
		}
		return err
	})
}

// ledger is what load and kept have said so far.
type ledger struct{ rows, failed, keptRows, opened int }

func readLedger(t *testing.T) ledger {
	t.Helper()
	load := stage.Must(t, "", "-n", pgNamespace, "logs", "client", "-c", "load")
	kept := stage.Must(t, "", "-n", pgNamespace, "logs", "client", "-c", "kept")
	count := func(log, begin string) int { return strings.Count("\n"+log, "\n"+begin) }
	return ledger{count(load, "ok"), count(load, "failed"), count(kept, "ok"), count(kept, "opened")}
}

// awaitRows waits until load and kept have each written n more rows, and returns the ledger of before and of then.
func (m *mesh) awaitRows(t *testing.T, n int) (before, after ledger) {
	t.Helper()
	before = readLedger(t)
	stage.Poll(t, 2*time.Minute, func() error {
		if after = readLedger(t); after.rows < before.rows+n || after.keptRows < before.keptRows+n {
			return fmt.Errorf("the ledger is %+v, and was %+v", after, before)
		}
		return nil
	})
	return before, after
}

func (m *mesh) testSQLStrangers(t *testing.T) {
	stage.Must(t, "", "-n", pgNamespace, "run", "stranger", "--image=meshless-test/servers:15", "--image-pull-policy=Never", "--restart=Never",
		"--env=PGUSER=app", "--env=PGPASSWORD=hunter2", "--env=PGDATABASE=app", "--command", "--", "sleep", "infinity")
	stage.Ready(t, pgNamespace, "pod/stranger")
	for _, host := range []string{"pg-rw", "pg-ro", "pg-r", m.pods(t, instances)[0].Status.PodIP} {
		if out, err := trySQL("other", host, "select 1"); err == nil {
			t.Errorf("other, which no rule names, got in at %s: %s", host, out)
		}
		for _, mode := range []string{"disable", "require"} {
			if out, err := stage.Kubectl("", "-n", pgNamespace, "exec", "stranger", "--", "timeout", "10", "psql", "host="+host+" sslmode="+mode, "-c", "select 1"); err == nil {
				t.Errorf("a stranger got in at %s with sslmode=%s: %s", host, mode, out)
			}
		}
	}
	stage.Must(t, "", "-n", pgNamespace, "delete", "pod", "stranger", "--wait=false")
}

// testPgRenewal: no row fails, the kept connection lives on, and nobody fails over.
func (m *mesh) testPgRenewal(t *testing.T) {
	before, led := readLedger(t), primary(t)
	m.renew(t, 2, "cluster/pg", "pod/client")
	_, after := m.awaitRows(t, 20)
	t.Logf("the ledger was %+v, and is %+v", before, after)
	if after.failed != before.failed || after.opened != before.opened {
		t.Errorf("rows failed, or the kept connection ended: the ledger was %+v, and is %+v", before, after)
	}
	if now := primary(t); now != led {
		t.Errorf("%s became primary", now)
	}
	streaming(t)
	stage.WantNoRestarts(t, m.pods(t, instances))
}

// testFailover deletes the pod of the primary. What was written before is there, and the old primary comes back as a
// replica, in a pod that is injected as the first was.
func (m *mesh) testFailover(t *testing.T) {
	old, rows := primary(t), sql(t, "client", "pg-rw", "select count(*) from orders where text like 'first%'")
	started := time.Now()
	stage.Must(t, "", "-n", pgNamespace, "delete", "pod", old, "--wait=false")
	stage.Poll(t, 4*time.Minute, func() error {
		if now := primary(t); now == old {
			return fmt.Errorf("%s is still the primary", now)
		}
		_, err := trySQL("client", "pg-rw", "insert into orders values ('second: "+pgMarker+"')")
		return err
	})
	t.Logf("%s writes after %v", primary(t), time.Since(started).Round(time.Second))
	m.recovered(t)
	if out := sql(t, "client", "pg-rw", "select count(*) from orders where text like 'first%'"); out != rows {
		t.Errorf("%s rows of before are left, want %s", out, rows)
	}
}

// recovered waits until both instances serve, in the mesh, one streams from the other, and rows come in again.
func (m *mesh) recovered(t *testing.T) {
	t.Helper()
	started := time.Now()
	stage.Poll(t, 6*time.Minute, healthy)
	for _, pod := range m.awaitMeshed(t, instances, "cluster/pg", 2) {
		sql(t, "client", pod.Status.PodIP, "select count(*) from orders")
	}
	streaming(t)
	m.awaitRows(t, 10)
	before, after := m.awaitRows(t, 20)
	if before.failed != after.failed {
		t.Errorf("rows still fail: the ledger was %+v, and is %+v", before, after)
	}
	t.Logf("all is well after %v: %+v", time.Since(started).Round(time.Second), after)
}

// testPgChaos kills while a renewal is on its way.
func (m *mesh) testPgChaos(t *testing.T) {
	m.applyRenewed(t, 1, "cluster/pg")
	disturb(t, 45*time.Second, m.pods(t, instances), proxyProgram, sandboxProgram, "postgres")
	m.recovered(t)
	m.inForce(t)
}
