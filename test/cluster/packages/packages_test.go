//go:build e2e && linux

package packages

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/app/load"
	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
)

// Markers of requests: of the load, and in the paths of calls by a pod's address.
const (
	marker        = "an-order-between-packages"
	addressMarker = "an-order-by-address"
)

// server is a Deployment with two Services; NAME and APP are put in. Several may have one APP, behind one Service.
const server = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  replicas: 2
  selector: {matchLabels: {app: APP, deployment: NAME}}
  template:
    metadata: {labels: {app: APP, deployment: NAME, test: packages}}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: 14
      containers:
        - name: app
          image: meshless-test/app:latest
          imagePullPolicy: IfNotPresent
          args: [serve, --port, "8080"]
          ports: [{containerPort: 8080}]
          readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
          lifecycle: {preStop: {sleep: {seconds: 3}}} # until every node has learned that the pod ends
---
`

const services = `
apiVersion: v1
kind: Service
metadata: {name: APP}
spec: {selector: {app: APP}, ports: [{port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: APP-each}
spec: {clusterIP: None, selector: {app: APP}, ports: [{port: 8080}]}
---
`

// caller asks all URLs in turn, on kept connections and on new ones.
const caller = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME-caller}
spec:
  selector: {matchLabels: {app: NAME-caller}}
  template:
    metadata: {labels: {app: NAME-caller, test: packages}}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: 5
      containers:
        - name: caller
          image: meshless-test/app:latest
          imagePullPolicy: IfNotPresent
          args: [load, --rate, "20", --keepalive, --port, "8090", URLS]
          env: [{name: MARKER, value: ` + marker + `}]
---
`

// pack is one package: servers behind Services, one that no Service has, and a caller.
type pack struct {
	name, namespace string
	folder          *example.Example
	text            string // of the last render
}

// mesh is packages with one CA.
type mesh struct {
	packs []*pack
	ca    string // the file of the CA
}

// newMesh makes packages, each in the namespace that it names, and deploys them. Each calls all, itself among them.
func newMesh(t *testing.T, packs ...*pack) *mesh {
	t.Helper()
	m := &mesh{packs: packs, ca: filepath.Join(t.TempDir(), "ca.yaml")}
	var urls []string
	for _, p := range packs {
		host := p.name + "." + p.namespace
		urls = append(urls, fmt.Sprintf("%q", "http://"+host+":8080/"), fmt.Sprintf("%q", "http://"+p.name+"-each."+p.namespace+":8080/"))
	}
	for i, p := range packs {
		calls := strings.ReplaceAll(strings.ReplaceAll(caller, "NAME", p.name), "URLS", strings.Join(urls, ", "))
		p.folder = stage.Package(t, p.namespace, p.server(p.name, p.name)+p.services(p.name)+p.server(p.name+"-alone", p.name+"-alone")+calls, "")
		if i > 0 {
			p.folder.Join(t, packs[0].folder)
		}
		stage.Must(t, p.folder.IdentitySecret(p.namespace), "apply", "-f", "-")
		m.apply(t, p)
	}
	for _, p := range packs {
		stage.Rollout(t, p.namespace, "deployment/"+p.name, "deployment/"+p.name+"-alone", "deployment/"+p.name+"-caller")
	}
	m.settle(t)
	return m
}

func (p *pack) server(name, app string) string {
	return strings.ReplaceAll(strings.ReplaceAll(server, "NAME", name), "APP", app)
}

func (p *pack) services(app string) string { return strings.ReplaceAll(services, "APP", app) }

// apply issues, renders and applies one package, as its own pipeline does.
func (m *mesh) apply(t *testing.T, p *pack) {
	t.Helper()
	p.folder.Issue(t, time.Now(), "--ca", m.ca)
	p.text = stage.Render(t, p.folder)
	stage.Must(t, p.text, "apply", "-f", "-")
}

// edit changes the manifests of a package, and applies it.
func (m *mesh) edit(t *testing.T, p *pack, change func(string) string) {
	t.Helper()
	p.folder.Edit(t, "pod.yaml", change)
	m.apply(t, p)
}

// ledger is what came of a package's load; path is /stats or /reset.
func (p *pack) ledger(t *testing.T, path string) (s load.Stats) {
	t.Helper()
	a := p.call(t, fmt.Sprintf("http://127.0.0.1:%d%s", stage.CallerPort, path))[0]
	if err := json.Unmarshal([]byte(a.Body), &s); err != nil {
		t.Fatalf("%s: %+v: %v", p.name, a, err)
	}
	return s
}

// call lets the caller of the package ask once.
func (p *pack) call(t *testing.T, urls ...string) []stage.Answer {
	t.Helper()
	return stage.Call(t, p.namespace, "deployment/"+p.name+"-caller", "caller", urls...)
}

// settle waits until a second passes in which no request of the load fails, and lets it count from zero.
func (m *mesh) settle(t *testing.T) {
	t.Helper()
	for _, p := range m.packs {
		stage.Eventually(t, func() error {
			p.ledger(t, "/reset")
			time.Sleep(time.Second)
			if s := p.ledger(t, "/stats"); s.Failed > 0 || s.Requests == 0 {
				return errors.New(p.name + ": " + s.String())
			}
			return nil
		})
	}
	for _, p := range m.packs {
		p.ledger(t, "/reset")
	}
}

// wantNoFailure wants more requests of each package's load, and none that failed but those to the Services of gone.
func (m *mesh) wantNoFailure(t *testing.T, gone string) {
	t.Helper()
	for _, p := range m.packs {
		if p.name == gone {
			continue
		}
		before := p.ledger(t, "/stats").Requests
		var s load.Stats
		stage.Eventually(t, func() error {
			if s = p.ledger(t, "/stats"); s.Requests < before+60 {
				return fmt.Errorf("%s: %d requests since", p.name, s.Requests-before)
			}
			return nil
		})
		failed := 0
		for text, n := range s.Errors {
			if gone == "" || !strings.Contains(text, "//"+gone+".") && !strings.Contains(text, "//"+gone+"-each.") {
				failed += n
			}
		}
		if failed > 0 {
			t.Errorf("%s: %d requests failed to what is there: %s", p.name, failed, s)
		}
		t.Logf("%s: %d requests, %d failed", p.name, s.Requests, s.Failed)
	}
}

// byAddress lets every package call every pod of the others by its address, those among them that no Service has.
func (m *mesh) byAddress(t *testing.T) {
	t.Helper()
	for _, from := range m.packs {
		var urls []string
		for _, to := range m.packs {
			for _, pod := range stage.Pods(t, to.namespace, "app in ("+to.name+","+to.name+"-alone)") {
				if pod.DeletionTimestamp == nil {
					urls = append(urls, "http://"+pod.Status.PodIP+":8080/"+addressMarker)
				}
			}
		}
		for range 2 {
			for _, a := range from.call(t, urls...) {
				if a.Error != "" || !a.ByProxy() {
					t.Errorf("%s calls %s: %+v", from.name, a.URL, a)
				}
			}
		}
	}
}

func (m *mesh) wantEncrypted(t *testing.T) {
	t.Helper()
	for _, p := range m.packs {
		stage.WantEncrypted(t, p.namespace, api.PackageLabel)
	}
}
