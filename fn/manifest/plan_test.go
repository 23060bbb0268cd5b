package manifest_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/internal/podplan"
)

// A limit of ephemeral storage is the pod's: Kubernetes adds up those that it finds. So ours stands only beside another
// one, and exceeds the logs that a kubelet keeps.
func TestEphemeralStorage(t *testing.T) {
	deployment := func(spec string) string {
		return "{apiVersion: apps/v1, kind: Deployment, metadata: {name: w}, spec: {selector: {matchLabels: {app: w}}, template: {metadata: {labels: {app: w}}, spec: " + spec + "}}}\n"
	}
	const (
		plain   = "{name: a, image: i}"
		limited = "{name: b, image: i, resources: {limits: {ephemeral-storage: 1Gi}}}"
	)
	for _, c := range []struct{ spec, outbound, request, limit string }{
		{"{containers: [" + plain + "]}", "", "16Mi", ""},
		{"{containers: [" + plain + ", " + limited + "]}", "", "16Mi", "512Mi"},
		{"{initContainers: [" + limited + "], containers: [" + plain + "]}", "", "16Mi", "512Mi"},
		{"{containers: [" + limited + "]}", "}, init: {resources: {}}, proxy: {resources: {}", "", ""},
		// a Guaranteed pod that stays so
		{"{containers: [{name: a, image: i, resources: {limits: {cpu: 1, memory: 1Gi, ephemeral-storage: 1Gi}}}]}", "}, sidecar: {qosClass: Keep", "16Mi", "512Mi"},
	} {
		m, r := build(t, deployment(c.spec), c.outbound)
		if r.Failed() {
			t.Fatal(r.Errors())
		}
		for _, container := range []podplan.Container{m.Workloads[0].Plan.Init, m.Workloads[0].Plan.Proxy} {
			const name = string(corev1.ResourceEphemeralStorage)
			if r := container.Resources; r.Requests[name] != c.request || r.Limits[name] != c.limit {
				t.Errorf("%s, %s: requests %q and limits %q", c.spec, c.outbound, r.Requests[name], r.Limits[name])
			}
		}
	}
}
