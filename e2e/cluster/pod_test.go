//go:build e2e && linux

package cluster

import (
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/e2e/example"
	"github.com/meshless-dev/meshless/internal/contract"
)

// TestPod applies the smallest example: the Pod runs, and init has printed the chains that it made.
func TestPod(t *testing.T) {
	const namespace = "pod-example"
	newNamespace(t, namespace)
	e := example.Copy(t, "../../examples/pod", binDir)
	e.Edit(t, "pod.yaml", func(text string) string { // bash has no tag, which would mean Always, and this cluster pulls nothing
		return strings.Replace(text, "image: bash\n", "image: bash\n      imagePullPolicy: IfNotPresent\n", 1)
	})
	e.Edit(t, "kustomization.yaml", func(text string) string { return text + "namespace: " + namespace + "\n" })
	e.Issue(t, time.Now())
	must(t, e.IdentitySecret(namespace), "apply", "-f", "-")
	must(t, e.Render(t), "apply", "-f", "-")
	must(t, "", "-n", namespace, "wait", "--for=jsonpath={.status.initContainerStatuses[1].ready}=true", "pod/mutual-tls", "--timeout=60s")
	wantChains(t, must(t, "", "-n", namespace, "logs", "mutual-tls", "-c", contract.InitName))
	must(t, "", "-n", namespace, "wait", "--for=jsonpath={.status.containerStatuses[0].state.running}", "pod/mutual-tls", "--timeout=60s")
}
