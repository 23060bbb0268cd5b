package controlplane

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/test/program"
)

// modules are Go modules from which test/env/programs.sh and test/kinds build programs, in the same versions, so that
// nothing more is downloaded. They hold manifests, too.
var modules = map[string]struct{ version, sum string }{
	"k8s.io/kubernetes":                          {"v1.36.3", "h1:qDQdoMiluAE2Eab6Fa52YV+WjiGz9mZFFoagEA6cI+o="},
	"knative.dev/serving":                        {"v0.50.0", "h1:9XUQq2yqUPN1YZUuGH6nF8IMvuumNvGXzCrSTYu44bA="},
	"github.com/argoproj/argo-rollouts":          {"v1.9.0", "h1:bXgBpwCByXyAUcgBnyP0fxkSW2CEot78InTFjFlag5g="},
	"github.com/fluxcd/kustomize-controller":     {"v1.9.6", "h1:XB+G3A0mky0j5uVHZWv4oSlS2RvZBoNIUhstIvY0JKE="},
	"github.com/kyverno/kyverno":                 {"v1.19.1", "h1:/MkgFii3/VlQfKR1JpC9tVwNNVNQTt2S4U6qCsafsTU="},
	"github.com/open-policy-agent/gatekeeper/v3": {"v3.23.1", "h1:njHTm0SJ6ZEhhEgmQTpJKTGQbc99fSs4hGiEp1OIKck="},
}

const (
	kubernetes = "k8s.io/kubernetes"
	knative    = "knative.dev/serving"
	sets       = "test/e2e/testing-manifests/statefulset/"
	csi        = "test/e2e/testing-manifests/storage-csi/"
)

// applications are packages of manifests of the modules.
var applications = map[string]struct {
	module string
	files  []string // patterns
}{
	"gatekeeper":             {"github.com/open-policy-agent/gatekeeper/v3", []string{"deploy/gatekeeper.yaml"}},
	"kyverno":                {"github.com/kyverno/kyverno", []string{"config/install-latest-testing.yaml"}},
	"argo-rollouts":          {"github.com/argoproj/argo-rollouts", []string{"manifests/install.yaml", "manifests/dashboard-install/*.yaml"}},
	"argo-rollouts examples": {"github.com/argoproj/argo-rollouts", []string{"examples/rollout-*.yaml"}},
	"kustomize-controller":   {"github.com/fluxcd/kustomize-controller", []string{"config/manager/deployment.yaml", "config/rbac/*.yaml"}},
	"knative-serving":        {knative, []string{"config/core/*.yaml", "config/core/*/*.yaml", "config/hpa-autoscaling/*.yaml"}},
	"knative post-install":   {knative, []string{"config/post-install/*.yaml"}},
	"cert-manager":           {knative, []string{"third_party/cert-manager-latest/cert-manager.yaml"}},
	"contour":                {knative, []string{"third_party/contour-latest/contour.yaml", "third_party/contour-latest/net-contour.yaml"}},
	"kourier":                {knative, []string{"third_party/kourier-latest/kourier.yaml"}},
	"net-istio":              {knative, []string{"third_party/istio-latest/net-istio.yaml"}},
	"cassandra":              {kubernetes, []string{sets + "cassandra/*.yaml"}},
	"cockroachdb":            {kubernetes, []string{sets + "cockroachdb/*.yaml"}},
	"etcd":                   {kubernetes, []string{sets + "etcd/*.yaml"}},
	"mysql-galera":           {kubernetes, []string{sets + "mysql-galera/*.yaml"}},
	"mysql-upgrade":          {kubernetes, []string{sets + "mysql-upgrade/*.yaml"}},
	"zookeeper":              {kubernetes, []string{sets + "zookeeper/*.yaml"}},
	"guestbook":              {kubernetes, []string{"test/e2e/testing-manifests/guestbook/*.yaml", "test/e2e/testing-manifests/guestbook/legacy/*.yaml"}},
	"csi-hostpath":           {kubernetes, []string{csi + "hostpath/hostpath/*.yaml", csi + "external-attacher/*.yaml", csi + "external-provisioner/*.yaml"}},
	"csi-gce-pd":             {kubernetes, []string{csi + "gce-pd/*.yaml"}},
	"device-plugin":          {kubernetes, []string{"test/e2e/testing-manifests/sample-device-plugin/sample-device-plugin.yaml"}},
	"kube-network-policies":  {kubernetes, []string{"cluster/addons/kube-network-policies/*.yaml"}},
	"node-problem-detector":  {kubernetes, []string{"cluster/addons/node-problem-detector/*.yaml"}},
	"snapshot-controller":    {kubernetes, []string{"cluster/addons/volumesnapshots/volume-snapshot-controller/*.yaml"}},
	"calico":                 {kubernetes, []string{"cluster/addons/calico-policy-controller/*.yaml"}},
	"metadata-agent":         {kubernetes, []string{"cluster/addons/metadata-agent/stackdriver/*.yaml"}},
	"null values":            {kubernetes, []string{"hack/testdata/null-propagation/deployment-l1.yaml", "hack/testdata/null-propagation/deployment-null.yml"}},
}

// checkApplications reads the modules, as Go has them in its cache or downloads them.
func (d *dryRunner) checkApplications(t *testing.T, m *mesh) {
	folders := map[string]string{}
	for module := range modules {
		folders[module] = moduleFolder(t, module)
	}
	applied, ours := d.applied, d.ours
	for name, application := range applications {
		var text string
		for _, pattern := range application.files {
			files, err := filepath.Glob(filepath.Join(folders[application.module], pattern))
			if err != nil || len(files) == 0 {
				t.Fatalf("%s: %s: there are no such files: %v", name, pattern, err)
			}
			slices.Sort(files)
			for _, file := range files {
				text += withoutCRDs(readFile(t, file)) + "\n---\n"
			}
		}
		d.check(t, m, name, text)
	}
	if applied, ours = d.applied-applied, d.ours-ours; applied < 500 || ours < 100 {
		t.Errorf("%d objects were applied, %d of ours among them, which proves little", applied, ours)
	}
}

// withoutCRDs leaves out the CRDs, which are megabytes, but for those with a conversion webhook: that names a Service.
func withoutCRDs(text string) string {
	documents := slices.DeleteFunc(strings.Split(text, "\n---\n"), func(document string) bool {
		return strings.Contains("\n"+document, "\nkind: CustomResourceDefinition") && !strings.Contains(document, "\n  conversion:")
	})
	return strings.Join(documents, "\n---\n")
}

// moduleFolder is where a module lies. What it holds is what was read when the test was written.
func moduleFolder(t *testing.T, module string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", module+"@"+modules[module].version)
	cmd.Dir = t.TempDir() // outside of every module
	out, err := cmd.Output()
	var got struct{ Dir, Sum, Error string }
	if json.Unmarshal(out, &got) != nil || got.Dir == "" {
		program.Missing(t, "the Go module %s %s, from a proxy: %v %s", module, modules[module].version, err, got.Error)
	}
	if want := modules[module].sum; got.Sum != want {
		t.Fatalf("%s has the checksum %s, want %s", module, got.Sum, want)
	}
	return got.Dir
}
