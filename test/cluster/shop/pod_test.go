//go:build e2e && linux

package shop

import (
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
)

// TestPod applies the smallest example: the Pod runs, and init has printed the chains that it made.
func TestPod(t *testing.T) {
	const namespace = "pod-example"
	stage.NewNamespace(t, namespace)
	e := example.Copy(t, "../../../examples/pod")
	e.Edit(t, "pod.yaml", func(text string) string {
		// bash has no tag, which would mean Always, and this cluster pulls nothing
		return strings.Replace(text, "image: bash\n", "image: bash\n      imagePullPolicy: IfNotPresent\n", 1)
	})
	e.Edit(t, "kustomization.yaml", func(text string) string { return text + "namespace: " + namespace + "\n" })
	stage.DeployPackage(t, namespace, e)
	stage.Must(t, "", "-n", namespace, "wait", "--for=jsonpath={.status.initContainerStatuses[1].ready}=true", "pod/mutual-tls", "--timeout=60s")
	wantChains(t, stage.Must(t, "", "-n", namespace, "logs", "mutual-tls", "-c", api.InitName))
	stage.Must(t, "", "-n", namespace, "wait", "--for=jsonpath={.status.containerStatuses[0].state.running}", "pod/mutual-tls", "--timeout=60s")
}
