//go:build e2e && linux

package state

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/stage"
)

const pgNamespace = "state-postgres"

// postgres is what an operator for high availability makes: two members, of which one is the primary. pg-primary
// selects by a label that the agent moves; the endpoints of pg-leader are written by the agent. The agent is this test.
const postgres = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: pg}
spec:
  serviceName: pg-each
  replicas: 2
  selector: {matchLabels: {app: pg}}
  template:
    metadata: {labels: {app: pg}}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: 10
      securityContext: {runAsUser: 999, runAsGroup: 999, fsGroup: 999}
      containers:
        - name: postgres
          image: ` + serversImage + `
          imagePullPolicy: Never
          command: [bash, -ec]
          args:
            - |
              export PGDATA=/data/pg
              if [ "${HOSTNAME##*-}" = 0 ]; then
                initdb --auth=trust --username=postgres >/dev/null
                echo "host all all all trust" >>$PGDATA/pg_hba.conf
                echo "host replication all all trust" >>$PGDATA/pg_hba.conf
              else
                until pg_basebackup --host=pg-primary --username=postgres --write-recovery-conf --pgdata=$PGDATA; do
                  rm -rf $PGDATA
                  sleep 1
                done
              fi
              chmod 700 $PGDATA
              exec postgres -c listen_addresses='*' -c unix_socket_directories=/data -c wal_log_hints=on
          ports: [{containerPort: 5432}]
          readinessProbe: {exec: {command: [pg_isready, --host=/data]}, periodSeconds: 1}
          volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: pg-each}
spec: {clusterIP: None, selector: {app: pg}, ports: [{port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: pg-primary}
spec: {selector: {app: pg, role: primary}, publishNotReadyAddresses: true, ports: [{port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: pg-leader, annotations: {meshless.dev/workloads: StatefulSet/pg}}
spec: {ports: [{name: sql, port: 5432}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  containers: [{name: client, image: "` + serversImage + `", imagePullPolicy: Never, command: [sleep, infinity]}]
`

// TestPostgres lets the primary move from pg-0 to pg-1, while the clients use the same two Services.
func TestPostgres(t *testing.T) {
	stage.NewNamespace(t, pgNamespace)
	wire := stage.WatchWire(t, pgNamespace, marker)
	stage.DeployPackage(t, pgNamespace, stage.Package(t, pgNamespace, postgres, ""))
	stage.Ready(t, pgNamespace, "pod/client")
	lead(t, "pg-0")
	stage.Rollout(t, pgNamespace, "statefulset/pg")
	stage.Must(t, "", "-n", pgNamespace, "wait", "--for=jsonpath={.status.phase}=Running", "pod/pg-0")
	wantSQL(t, "create table orders (text text)", "", "pg-primary")
	wantSQL(t, "insert into orders values ('"+marker+"')", "", "pg-primary", "pg-leader")
	wantSQL(t, "select count(*) from orders", "2", "pg-primary", "pg-leader", "pg-0.pg-each", "pg-1.pg-each")

	stage.Must(t, "", "-n", pgNamespace, "exec", "pg-1", "-c", "postgres", "--", "pg_ctl", "promote", "--wait", "--pgdata=/data/pg")
	lead(t, "pg-1")
	wantSQL(t, "select inet_server_addr() is not null and not pg_is_in_recovery()", "t", "pg-primary", "pg-leader")
	wantSQL(t, "insert into orders values ('"+marker+"')", "", "pg-primary", "pg-leader")
	wantSQL(t, "select count(*) from orders", "4", "pg-1.pg-each")

	stage.WantEncrypted(t, pgNamespace, api.PackageLabel)
	wire.WantSecret(t)
	wantStrangerRefused(t)
}

// lead is what the agent does: the label and the endpoints move to the pod.
func lead(t *testing.T, pod string) {
	t.Helper()
	stage.Eventually(t, func() error {
		if p := stage.Pods(t, pgNamespace, "statefulset.kubernetes.io/pod-name="+pod); len(p) != 1 || p[0].Status.PodIP == "" {
			return fmt.Errorf("%s has no address yet", pod)
		}
		return nil
	})
	stage.Must(t, "", "-n", pgNamespace, "label", "pods", "-l", "app=pg", "role-")
	stage.Must(t, "", "-n", pgNamespace, "label", "pod", pod, "role=primary")
	stage.Must(t, fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: pg-leader-agent, labels: {kubernetes.io/service-name: pg-leader}}
addressType: IPv4
ports: [{name: sql, port: 5432}]
endpoints: [{addresses: ["%s"], conditions: {ready: true}}]
`, stage.Pod(t, pgNamespace, pod).Status.PodIP), "-n", pgNamespace, "apply", "-f", "-")
}

// wantSQL lets the client run a statement at each host, and wants the output. A host may need a moment until the
// cluster's Services have learned who leads.
func wantSQL(t *testing.T, statement, want string, hosts ...string) {
	t.Helper()
	for _, host := range hosts {
		stage.Poll(t, 30*time.Second, func() error {
			out, err := stage.Kubectl("", "-n", pgNamespace, "exec", "client", "-c", "client", "--", "timeout", "10",
				"psql", "-h", host, "-U", "postgres", "--no-align", "--tuples-only", "--quiet", "-c", statement)
			if err == nil && strings.TrimSpace(out) != want {
				err = fmt.Errorf("%s says %q to %s, want %q", host, out, statement, want)
			}
			return err
		})
	}
}

// wantStrangerRefused is the control: a pod outside of the mesh gets in nowhere.
func wantStrangerRefused(t *testing.T) {
	t.Helper()
	stage.Must(t, "", "-n", pgNamespace, "run", "stranger", "--image="+serversImage, "--image-pull-policy=Never", "--restart=Never", "--command", "--", "sleep", "infinity")
	stage.Ready(t, pgNamespace, "pod/stranger")
	for _, host := range []string{"pg-primary", "pg-leader", "pg-0.pg-each"} {
		if out, err := stage.Kubectl("", "-n", pgNamespace, "exec", "stranger", "--", "timeout", "10", "psql", "-h", host, "-U", "postgres", "-c", "select 1"); err == nil {
			t.Errorf("a stranger got in at %s: %s", host, out)
		}
	}
}
