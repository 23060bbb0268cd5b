//go:build e2e && linux

package flux

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/stage"
)

// newPair makes the pair in a namespace of its own, with its identity, after edit of its manifests.
func (r *room) newPair(t *testing.T, name string, edit ...string) *app {
	t.Helper()
	stage.NewNamespace(t, name)
	manifests := pair
	if len(edit) > 0 {
		manifests = strings.NewReplacer(edit...).Replace(pair)
		if manifests == pair {
			t.Fatal("the manifests are not as this test knows them")
		}
	}
	e := stage.Package(t, name, manifests, "")
	e.Issue(t, time.Now())
	stage.Must(t, e.IdentitySecret(name), "apply", "-f", "-")
	a := r.newApp(t, name, e)
	a.push(t)
	return a
}

// testSubstitution lets Flux put values into what was rendered (postBuild), those that mean something in YAML and JSON
// among them.
func testSubstitution(t *testing.T, r *room) {
	const name = "flux-values"
	a := r.newPair(t, name, "httpGet: {path: /healthz, port: 8080}", `httpGet: {path: "/healthz?e=${ENVIRONMENT}", port: 8080, httpHeaders: [{name: X-Token, value: "${TOKEN}"}, {name: X-Team, value: "${TEAM:=none}"}]}`)
	before := a.rendered(t)
	if !strings.Contains(before, "${TOKEN}") {
		t.Fatalf("the render has dropped the variable:\n%s", before)
	}
	for _, token := range []string{`plain`, `a"b`, `a\b`} {
		stage.Must(t, a.alone(t, fmt.Sprintf("  postBuild: {substitute: {ENVIRONMENT: prod, TOKEN: '%s'}}\n", token)), "apply", "-f", "-")
		a.sync(t)
		probe := stage.Must(t, "", "-n", name, "get", "deployment/server", "-o", "jsonpath={.spec.template.metadata.annotations}")
		if strings.Contains(probe, "${") {
			t.Errorf("TOKEN %s: a variable is left: %s", token, probe)
		}
		wantMutualTLS(t, name)
	}
}

// testTargetNamespace: rendered output that Flux moves to another namespace does not start there, with an identity that
// belongs elsewhere.
func testTargetNamespace(t *testing.T, r *room) {
	const name, other = "flux-moved", "flux-moved-other"
	a := r.newPair(t, name)
	stage.NewNamespace(t, other)
	stage.Must(t, a.IdentitySecret(other), "apply", "-f", "-")
	stage.Must(t, strings.Replace(a.alone(t, "  targetNamespace: "+other+"\n"), "wait: true", "wait: false", 1), "apply", "-f", "-")
	a.sync(t)
	stage.Poll(t, patience, func() error {
		return says(other, "app=server", "the pod is in namespace "+other, "/ns/"+name+"/")
	})
	for _, p := range stage.Pods(t, other, "") {
		if stage.IsReady(p) {
			t.Errorf("%s is ready with an identity of another namespace", p.Name)
		}
	}
}

// patches change the containers of ours in rendered output: by a strategic merge, which puts what it names before the
// others, and by a JSON patch.
const patches = `  patches:
    - target: {kind: Deployment, name: server}
      patch: |
        - {op: replace, path: /spec/template/spec/initContainers/1/resources/limits/memory, value: 96Mi}
    - target: {kind: Deployment, name: client}
      patch: |
        apiVersion: apps/v1
        kind: Deployment
        metadata: {name: client}
        spec: {template: {spec: {initContainers: [{name: meshless-proxy, resources: {limits: {memory: 96Mi}}}]}}}
`

// testPatches: a JSON patch of rendered output keeps the order of its containers, and works. A strategic merge does
// not, and what has lost its order does not start, and says why.
func testPatches(t *testing.T, r *room) {
	const name = "flux-patched"
	a := r.newPair(t, name)
	stage.Must(t, strings.Replace(a.alone(t, patches), "wait: true", "wait: false", 1), "apply", "-f", "-")
	a.sync(t)
	stage.Rollout(t, name, "deployment/server")
	for workload, order := range map[string]string{"server": "meshless-init meshless-proxy", "client": "meshless-proxy meshless-init"} {
		if got := stage.Must(t, "", "-n", name, "get", "deployment/"+workload, "-o", "jsonpath={.spec.template.spec.initContainers[*].name}"); got != order {
			t.Errorf("%s has %s, want %s", workload, got, order)
		}
		if got := stage.Must(t, "", "-n", name, "get", "deployment/"+workload, "-o", `jsonpath={.spec.template.spec.initContainers[?(@.name=="`+api.ProxyName+`")].resources.limits.memory}`); got != "96Mi" {
			t.Errorf("%s was not patched: the proxy has %s", workload, got)
		}
	}
	stage.Poll(t, patience, func() error { return says(name, "app=client", "from which to dial the app") })
	for _, p := range stage.Pods(t, name, "app=client") {
		if s, ok := stage.Container(p, "app"); ok && s.Started != nil && *s.Started || stage.IsReady(p) {
			t.Errorf("the app of %s runs, though its redirect rules came behind the proxy", p.Name)
		}
	}
}

// says wants the proxy of a pod to say all of the words, in its log or in that of its last run.
func says(namespace, selector string, words ...string) error {
	var logs string
	for _, previous := range []string{"--previous=false", "--previous"} {
		log, _ := stage.Kubectl("", "-n", namespace, "logs", "-l", selector, "-c", api.ProxyName, "--tail=20", previous) // none before it started
		logs += log
	}
	for _, word := range words {
		if !strings.Contains(logs, word) {
			return fmt.Errorf("no proxy of %s in %s says %q: %s", selector, namespace, word, logs)
		}
	}
	return nil
}
