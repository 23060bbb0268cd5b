package controlplane

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/internal/api"
)

const twoTemplates = "  workloads: {templates: [{group: leaderworkerset.x-k8s.io, kind: LeaderWorkerSet, path: spec.leaderWorkerTemplate.leaderTemplate}, " +
	"{group: leaderworkerset.x-k8s.io, kind: LeaderWorkerSet, path: spec.leaderWorkerTemplate.workerTemplate}]}\n"

// checkFindings: what was refused once, or passed in silence, renders and is said.
func (d *dryRunner) checkFindings(t *testing.T, m *mesh) {
	for name, test := range map[string]struct {
		spec    string
		refused bool
		pods    int      // that are injected
		says    []string // warnings or errors, and there are no others
	}{
		"probe-by-name": {pods: 1},
		"two-templates": {spec: twoTemplates, pods: 2},
		"job":           {pods: 1, says: []string{"job shop/migrate: spec.template: is written anew by this render"}},
		"named-ports":   {pods: 2},
		"guaranteed":    {pods: 1, says: []string{"make a Guaranteed pod, which is Burstable with the sidecar", "demands limits.cpu of every container"}},
		"shared-address": {pods: 1, says: []string{"service shop/dns-tcp: spec.ports[0]: port 53 is of type LoadBalancer",
			"service shop/dns-udp: spec.ports[0].protocol: port 53 is UDP"}},
		"windows": {says: []string{"nodeSelector[kubernetes.io/os]: a Windows pod cannot be redirected"}},
		"udp": {pods: 1, says: []string{"dnsPolicy: Default asks the DNS of the node", "runtimeClassName: is gvisor",
			"service shop/statsd: spec.ports[0].protocol: port 8125 is UDP"}},
		"lists":         {},
		"patch":         {refused: true, says: []string{"lacks apiVersion or kind, so it is no manifest"}},
		"no-template":   {refused: true, says: []string{"deployment shop/a: spec.template: is missing"}},
		"restricted":    {refused: true, says: []string{"restricted forbids the capability NET_ADMIN"}},
		"nameless-list": {refused: true, says: []string{"error: list: items: is no object"}},
	} {
		t.Run(name, func(t *testing.T) {
			in, err := manifests(t, readFile(t, filepath.Join("testdata/findings", name+".yaml")))
			if err != nil {
				t.Fatal(err)
			}
			out, said := m.render(t, in, test.spec)
			if (out == nil) != test.refused {
				t.Fatalf("refused: %v, want %v:\n%s", out == nil, test.refused, said)
			}
			says := slices.Clone(test.says)
			for line := range strings.Lines(said) {
				if strings.HasPrefix(line, "info: ") {
					continue
				}
				i := slices.IndexFunc(says, func(want string) bool { return strings.Contains(line, want) })
				if i < 0 || !strings.HasSuffix(line, " (app.yaml)\n") {
					t.Errorf("says, or says without the file: %s", line)
				} else {
					says = slices.Delete(says, i, i+1)
				}
			}
			if len(says) > 0 {
				t.Errorf("does not say %q:\n%s", says, said)
			}
			if out == nil {
				return
			}
			if got := strings.Count(written(t, out), api.ProxyName+"\n") + strings.Count(written(t, out), api.ProxyName+","); got != test.pods {
				t.Errorf("%d pods are injected, want %d", got, test.pods)
			}
			d.checkLaws(t, m, name, in, out, said, test.spec)
		})
	}
}
