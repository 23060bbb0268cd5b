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
	for _, token := range []string{`plain`, `a\"b`, `a\\b`} {
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
	stage.Eventually(t, func() error {
		for _, p := range stage.Pods(t, other, "app=server") {
			log, err := stage.Kubectl("", "-n", other, "logs", p.Name, "-c", api.ProxyName, "--tail=20")
			if err == nil && strings.Contains(log, name) && strings.Contains(log, other) {
				return nil
			}
		}
		return fmt.Errorf("no proxy in %s says that its identity is of %s", other, name)
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
        apiVersion: apps/v1
        kind: Deployment
        metadata: {name: server}
        spec: {template: {spec: {initContainers: [{name: meshless-proxy, resources: {limits: {memory: 96Mi}}}]}}}
    - target: {kind: Deployment, name: client}
      patch: |
        - {op: replace, path: /spec/template/spec/initContainers/1/resources/limits/memory, value: 96Mi}
`

// testPatches: whatever order the containers have after Flux's patches, what runs is in the mesh, with its rules in
// force.
func testPatches(t *testing.T, r *room) {
	const name = "flux-patched"
	a := r.newPair(t, name)
	stage.Must(t, a.alone(t, patches), "apply", "-f", "-")
	a.sync(t)
	order := stage.Must(t, "", "-n", name, "get", "deployment/server", "-o", "jsonpath={.spec.template.spec.initContainers[*].name}")
	limit := stage.Must(t, "", "-n", name, "get", "deployment/server", "-o", `jsonpath={.spec.template.spec.initContainers[?(@.name=="`+api.ProxyName+`")].resources.limits.memory}`)
	t.Logf("after a strategic merge: %s, %s", order, limit)
	if limit != "96Mi" {
		t.Errorf("the patch was not applied: the proxy has %s", limit)
	}
	wantMutualTLS(t, name)
}
