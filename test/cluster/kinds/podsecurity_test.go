//go:build e2e && linux

package kinds

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/program"
)

// secured is a pod, and a Deployment of it, that even a restricted namespace takes, as long as it is in no mesh.
const secured = `apiVersion: v1
kind: Pod
metadata: {name: alone}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 7
  securityContext: {runAsNonRoot: true, runAsUser: 1001, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: app
      image: meshless-test/app:latest
      imagePullPolicy: IfNotPresent
      args: [serve]
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
`

const deployed = `---
apiVersion: apps/v1
kind: Deployment
metadata: {name: behind}
spec:
  selector: {matchLabels: {app: behind}}
  template:
    metadata: {labels: {app: behind}}
    spec: {automountServiceAccountToken: false, containers: [{name: app, image: "meshless-test/app:latest", imagePullPolicy: IfNotPresent, args: [serve]}]}
`

const enforce = "pod-security.kubernetes.io/enforce"

// TestPodSecurity: the init container needs NET_ADMIN, which only privileged namespaces grant. The render says so where
// it sees the label; where the label stands on the live namespace alone, the API server says so, and nothing runs half.
// Without our containers the same pods are taken, which is the control.
func TestPodSecurity(t *testing.T) {
	const namespace = "kinds-levels"
	stage.NewNamespace(t, namespace)
	forced := stage.Package(t, namespace, secured+deployed, "")
	forced.Issue(t, time.Now())
	stage.Must(t, forced.IdentitySecret(namespace), "apply", "-f", "-")
	rendered := forced.Render(t)
	for _, level := range []string{"baseline", "restricted"} {
		t.Run(level+": the render refuses", func(t *testing.T) { wantRenderRefused(t, namespace, level) })
		t.Run(level+": the API server refuses", func(t *testing.T) {
			stage.Must(t, "", "label", "--overwrite", "namespace", namespace, enforce+"="+level)
			stage.Must(t, secured, "-n", namespace, "apply", "--dry-run=server", "-f", "-")
			out, err := stage.Kubectl(rendered, "apply", "-f", "-")
			if want := fmt.Sprintf("violates PodSecurity %q", level+":latest"); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "NET_ADMIN") {
				t.Errorf("got %v\n%s, want %s because of NET_ADMIN", err, out, want)
			}
			stage.Eventually(t, func() error {
				out := stage.Must(t, "", "-n", namespace, "get", "deployment", "behind", "-o", `jsonpath={.status.conditions[?(@.type=="ReplicaFailure")].message}`)
				if !strings.Contains(out, "NET_ADMIN") || !strings.Contains(out, level) {
					return fmt.Errorf("the Deployment says %q of its pods", out)
				}
				return nil
			})
			if pods := stage.Pods(t, namespace, ""); len(pods) > 0 {
				t.Errorf("%d pods are there, the first %s", len(pods), pods[0].Name)
			}
			stage.Must(t, "", "-n", namespace, "delete", "deployment", "behind", "--wait")
		})
	}
	t.Run("privileged: it runs", func(t *testing.T) {
		stage.Must(t, "", "label", "--overwrite", "namespace", namespace, enforce+"=privileged")
		stage.Must(t, rendered, "apply", "-f", "-")
		stage.Ready(t, namespace, "pod/alone")
		stage.Rollout(t, namespace, "deployment/behind")
	})
}

// wantRenderRefused renders with the labelled Namespace in the input.
func wantRenderRefused(t *testing.T, namespace, level string) {
	t.Helper()
	labelled := fmt.Sprintf("---\napiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {%s: %s}}\n", namespace, enforce, level)
	e := stage.Package(t, namespace, secured+labelled, "")
	out, err := exec.CommandContext(t.Context(), program.Meshless(t), "issue", e.Dir).CombinedOutput()
	if want := fmt.Sprintf("%s: %s forbids the capability NET_ADMIN", enforce, level); err == nil || !strings.Contains(string(out), want) {
		t.Errorf("meshless issue: %v\n%s, want an error with %q", err, out, want)
	}
	e = stage.Package(t, namespace, secured+strings.Replace(labelled, level, "privileged", 1), "")
	if out, err := exec.CommandContext(t.Context(), program.Meshless(t), "issue", e.Dir).CombinedOutput(); err != nil {
		t.Errorf("the control, a privileged namespace: %v\n%s", err, out)
	}
}
