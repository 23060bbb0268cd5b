//go:build e2e && linux

package flux

import (
	"testing"
	"time"

	"filippo.io/age"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
)

// pairMarker is in each request of the pair.
const pairMarker = "the-marker-of-flux"

// pair is a server and its client, which is ready once it was answered.
const pair = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: server}
spec:
  replicas: 1
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 1
      containers:
        - name: app
          image: meshless-test/app:latest
          imagePullPolicy: IfNotPresent
          args: [serve, --port, "8080"]
          ports: [{containerPort: 8080}]
          readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, timeoutSeconds: 5}
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec: {selector: {app: server}, ports: [{port: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: client}
spec:
  replicas: 1
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 1
      containers:
        - name: app
          image: meshless-test/app:latest
          imagePullPolicy: IfNotPresent
          args: [load, --rate, "5", --port, "8090", "http://server:8080/"]
          env: [{name: MARKER, value: ` + pairMarker + `}]
          readinessProbe: {httpGet: {path: /healthz, port: 8090}, periodSeconds: 1, timeoutSeconds: 5}
`

// testSOPS: without decryption and with another's key Flux applies nothing, and says why. With the key it does, and
// what the pods get is a plain key, without any identity in their namespace.
func testSOPS(t *testing.T, r *room) {
	const name = "flux-sops"
	stage.NewNamespace(t, name)
	wire := stage.WatchWire(t, name, pairMarker)
	e := stage.Package(t, name, pair, "")
	e.Replace(t, "mtls.yaml", "sealing:\n", "sealing:\n    format: SOPS\n")
	e.Issue(t, time.Now())
	a := r.newApp(t, name, e)
	a.push(t)
	stage.Must(t, a.alone(t, ""), "apply", "-f", "-")
	a.refused(t, "is SOPS encrypted, configuring decryption is required")
	a.opensWith(t, example.NewIdentity(t))
	a.refused(t, "cannot get sops data key")
	if left := stage.Must(t, "", "-n", name, "get", "deployments,secrets", "-o", "name"); left != "" {
		t.Errorf("Flux applied %s", left)
	}
	a.opensWith(t, e.Cluster)
	a.sync(t)
	if keys := stage.Must(t, "", "-n", name, "get", "secret", api.NamePrefix+"deployment-server", "-o", `go-template={{len .data}} {{index .data "tls.key" | base64decode}}{{with .sops}}sops{{end}}`); !isPlain(keys) {
		t.Error("the Secret that Flux applied holds no plain key, or a field sops")
	}
	if _, err := stage.Kubectl("", "-n", name, "get", "secret", "meshless-identity"); err == nil {
		t.Error("there is an identity in the namespace, so this test could not fail")
	}
	wantMutualTLS(t, name)
	before := stage.Settled(t, name)
	a.sync(t)
	stage.WantSame(t, before, stage.Snapshot(t, name))
	wire.WantSecret(t)
}

// opensWith gives Flux an identity, and the Kustomization the Secret in which it is.
func (a *app) opensWith(t *testing.T, identity *age.X25519Identity) {
	t.Helper()
	secret := a.name + "-age"
	stage.Must(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: "+secret+", namespace: "+system+"}\nstringData: {age.agekey: "+identity.String()+"}\n", "apply", "-f", "-")
	stage.Must(t, a.alone(t, "  decryption: {provider: sops, secretRef: {name: "+secret+"}}\n"), "apply", "-f", "-")
}
