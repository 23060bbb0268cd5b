//go:build e2e && linux

package adoption

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
)

// echoPod is an app of one container, whose probe has a value that is substituted.
const echoPod = `apiVersion: v1
kind: Pod
metadata: {name: app, labels: {app: app}}
spec:
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
  containers:
    - name: app
      image: meshless-test/app:latest
      imagePullPolicy: IfNotPresent
      args: [serve]
      ports: [{containerPort: 8080}]
      readinessProbe:
        httpGet: {path: /headers, port: 8080, httpHeaders: [{name: Host, value: probe.example}, {name: X-Probe, value: "${ANSWER}"}, {name: X-Quoted, value: "${QUOTED}"}]}
        periodSeconds: 1
`

// render is the pod rendered for a namespace.
func render(t *testing.T, namespace string) (*example.Example, string) {
	t.Helper()
	e := stage.Package(t, namespace, echoPod, "")
	e.Issue(t, time.Now())
	return e, stage.Render(t, e)
}

// TestPatchedOutput is what Flux does to rendered output: a strategic merge patch puts the init containers in another
// order, and a substitution brings quotes and backslashes.
func TestPatchedOutput(t *testing.T) {
	const namespace = "adoption-patched"
	stage.NewNamespace(t, namespace)
	e, rendered := render(t, namespace)
	stage.Must(t, e.IdentitySecret(namespace), "apply", "-f", "-")
	substituted := strings.NewReplacer("${ANSWER}", "yes", "${QUOTED}", `a"b\c`).Replace(rendered)
	t.Run("values with quotes and backslashes reach the probe", func(t *testing.T) {
		stage.Must(t, substituted, "-n", namespace, "apply", "-f", "-")
		stage.Ready(t, namespace, "pod/app")
		stage.Must(t, "", "-n", namespace, "delete", "pod", "app")
	})
	t.Run("with the proxy before init the app does not start, and the reason is told", func(t *testing.T) {
		stage.Must(t, swapped(t, substituted), "-n", namespace, "apply", "-f", "-")
		stage.Eventually(t, func() error {
			pod := stage.Pod(t, namespace, "app")
			app, _ := stage.Container(pod, "app")
			if app.State.Waiting == nil || app.Started != nil && *app.Started {
				t.Fatalf("the app runs before the rules are written: %+v", app.State)
			}
			proxy, _ := stage.Container(pod, api.ProxyName)
			if ended := proxy.LastTerminationState.Terminated; ended == nil || !strings.Contains(ended.Message, "put meshless-init behind meshless-proxy") {
				return fmt.Errorf("the proxy does not say why: %+v", proxy)
			}
			return nil
		})
	})
}

// swapped is the manifests patched by kustomize, as Flux patches: what a patch names comes first.
func swapped(t *testing.T, manifests string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"all.yaml": manifests,
		"kustomization.yaml": "resources: [all.yaml]\npatches:\n- target: {kind: Pod}\n  patch: |-\n    apiVersion: v1\n    kind: Pod\n    metadata: {name: app}\n" +
			"    spec: {initContainers: [{name: meshless-proxy, resources: {requests: {cpu: 1m}}}]}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text := stage.Must(t, "", "kustomize", dir)
	if strings.Index(text, "name: "+api.ProxyName+"\n") > strings.Index(text, "name: "+api.InitName+"\n") {
		t.Fatalf("the patch has not swapped the containers:\n%s", text)
	}
	return text
}

// TestMovedOutput applies what was rendered for one namespace to another, as Flux does with targetNamespace.
func TestMovedOutput(t *testing.T) {
	const from, to = "adoption-from", "adoption-to"
	stage.NewNamespace(t, to)
	e, rendered := render(t, from)
	stage.Must(t, e.IdentitySecret(to), "apply", "-f", "-")
	moved := strings.NewReplacer("${ANSWER}", "yes", "${QUOTED}", "x", "namespace: "+from, "namespace: "+to).Replace(rendered)
	stage.Must(t, moved, "-n", to, "apply", "-f", "-")
	stage.Eventually(t, func() error {
		log, err := stage.Kubectl("", "-n", to, "logs", "app", "-c", api.ProxyName)
		if err == nil && !strings.Contains(log, "the pod is in namespace "+to+", and its identity is spiffe://") {
			err = fmt.Errorf("the proxy does not refuse: %s", log)
		}
		return err
	})
	if stage.IsReady(stage.Pod(t, to, "app")) {
		t.Error("a pod with an identity of another namespace is ready")
	}
}
