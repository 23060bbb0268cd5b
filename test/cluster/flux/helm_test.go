//go:build e2e && linux

package flux

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/program"
)

// templated is what `helm template` puts into the package, in docs/flux.md, "Helm".
const templated = "helm template shop chart --namespace %s >%s/chart.yaml"

// testHelm: a chart that CI has rendered is in the mesh, whether Flux applies it as manifests or as a release of Helm.
// A HelmRelease of the chart itself is not, and Strict servers refuse it.
func testHelm(t *testing.T, r *room) {
	const name, plain = "flux-helm", "flux-helm-plain"
	stage.NewNamespace(t, name)
	stage.NewNamespace(t, plain)
	e := stage.Package(t, name, "", "")
	e.Replace(t, "kustomization.yaml", "pod.yaml", "chart.yaml")
	if err := os.Remove(filepath.Join(e.Dir, "pod.yaml")); err != nil {
		t.Fatal(err)
	}
	a := r.newApp(t, name, e)
	write(t, filepath.Join(a.checks, "chart", "Chart.yaml"), "apiVersion: v2\nname: shop\nversion: 1.2.3\n")
	write(t, filepath.Join(a.checks, "chart", "templates", "pair.yaml"), pair)
	write(t, filepath.Join(a.checks, "chart", "values.yaml"), "{}\n")
	a.renderChart(t)
	a.Issue(t, time.Now())
	stage.Must(t, e.IdentitySecret(name), "apply", "-f", "-")
	a.push(t)
	stage.Must(t, a.alone(t, ""), "apply", "-f", "-")
	a.sync(t)
	wantMutualTLS(t, name)

	t.Run("a HelmRelease of the chart itself", func(t *testing.T) {
		stage.Must(t, fmt.Sprintf(helmRelease, plain, system, plain, "./chart", a.name+"-main"), "apply", "-f", "-")
		stage.Must(t, fmt.Sprintf(mainSource, a.name+"-main", system, a.url), "apply", "-f", "-")
		released(t, plain)
		for _, p := range stage.Pods(t, plain, "") {
			if _, meshed := stage.Container(p, api.ProxyName); meshed {
				t.Errorf("%s is in the mesh, and docs/flux.md says that it cannot be", p.Name)
			}
		}
		answer := stage.Call(t, plain, "deployment/client", "app", "http://server."+name+":8080/")[0]
		if answer.Error == "" {
			t.Errorf("a client outside of the mesh was answered by a Strict server: %+v", answer)
		}
	})
}

// renderChart is what CI does before it renders the package.
func (a *app) renderChart(t *testing.T) {
	t.Helper()
	helm := program.Find(t, "helm3", "test/consumers/helm.sh builds it")
	run(t, a.checks, strings.Replace(fmt.Sprintf(templated, a.name, filepath.Base(a.Dir)), "helm", helm, 1))
}

// mainSource is main, where the chart lies: name, namespace, URL.
const mainSource = `apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: %s, namespace: %s}
spec: {interval: 1m, url: "%s", ref: {branch: main}}
`

// helmRelease is a release of a chart in Git: name, namespace, namespace of the release, folder, source.
const helmRelease = `apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: %s, namespace: %s}
spec:
  interval: 10m
  releaseName: shop
  targetNamespace: %s
  chart: {spec: {chart: %s, reconcileStrategy: Revision, sourceRef: {kind: GitRepository, name: %s}}}
`

// released waits until Flux says that a HelmRelease is installed and its workloads are ready.
func released(t *testing.T, name string) status {
	t.Helper()
	requested := request(t, "helmrelease", name)
	var last status
	stage.Poll(t, 100*time.Second, func() error {
		s, err := look("helmrelease", name)
		if err != nil {
			return err
		}
		last = s
		for _, c := range s.Status.Conditions {
			if c.Type == "Ready" && c.Status == metav1.ConditionTrue && s.Status.LastHandledReconcileAt == requested && c.ObservedGeneration == s.Metadata.Generation {
				return nil
			}
		}
		return fmt.Errorf("HelmRelease %s: %+v", name, s.Status)
	})
	return last
}
