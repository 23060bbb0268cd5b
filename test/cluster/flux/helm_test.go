//go:build e2e && linux

package flux

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/program"
)

// rendersChart is the COMMAND of render.sh in docs/flux.md, "Helm", for a folder and a namespace.
const rendersChart = `helm template shop chart --namespace %[2]s | meshless render --config %[1]s/mtls.yaml --state %[1]s/mtls --namespace %[2]s -`

// testHelm: a chart that CI has rendered is in the mesh, as manifests that Flux applies.
func testHelm(t *testing.T, r *room) {
	const name = "flux-helm"
	stage.NewNamespace(t, name)
	e := stage.Package(t, name, "", "")
	e.Replace(t, "kustomization.yaml", "pod.yaml", "chart.yaml")
	if err := os.Remove(filepath.Join(e.Dir, "pod.yaml")); err != nil {
		t.Fatal(err)
	}
	a := r.newApp(t, name, e)
	write(t, filepath.Join(a.checks, "chart", "Chart.yaml"), "apiVersion: v2\nname: shop\nversion: 1.2.3\n")
	write(t, filepath.Join(a.checks, "chart", "templates", "pair.yaml"), pair)
	write(t, filepath.Join(e.Dir, ".gitignore"), "chart.yaml\n")
	helm := filepath.Join(t.TempDir(), "helm") // under the name that people have it
	if err := os.Symlink(program.Find(t, "helm3", "test/consumers/helm.sh builds it"), helm); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Base(e.Dir)
	run(t, a.checks, helm+" template shop chart --namespace "+name+" >"+folder+"/chart.yaml")
	a.Issue(t, time.Now())
	stage.Must(t, e.IdentitySecret(name), "apply", "-f", "-")
	a.commit(t)
	render, err := filepath.Abs("../../../examples/flux/render.sh")
	if err != nil {
		t.Fatal(err)
	}
	command := fmt.Sprintf(rendersChart, folder, name)
	run(t, a.checks, fmt.Sprintf("PATH=%s:$PATH; %s %s/mtls %s bash -euo pipefail -c '%s'", filepath.Dir(helm), render, folder, a.branch(), command))
	stage.Must(t, a.alone(t, ""), "apply", "-f", "-")
	a.sync(t)
	wantMutualTLS(t, name)
}
