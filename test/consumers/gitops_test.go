package consumers

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/program"
)

// fluxBuild is what Flux's kustomize-controller does with a folder: kustomize as a library, without plugins
// (github.com/fluxcd/pkg, kustomize).
func fluxBuild(dir string) (string, error) {
	options := krusty.MakeDefaultOptions()
	options.PluginConfig = types.DisabledPluginConfig()
	built, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return "", err
	}
	text, err := built.AsYaml()
	return string(text), err
}

// Flux refuses a kustomization with the function in it, and takes what was rendered as it is.
func TestFluxSyncsWhatWasRendered(t *testing.T) {
	e := example.Copy(t, "../../examples/shop")
	e.Issue(t, time.Now())
	if _, err := fluxBuild(e.Dir); err == nil || !strings.Contains(err.Error(), "external plugins disabled; unable to load external plugin 'MutualTLS'") {
		t.Errorf("Flux says of the source: %v", err)
	}
	rendered := e.Render(t)
	branch := t.TempDir()
	for name, text := range map[string]string{"manifests.yaml": rendered, "kustomization.yaml": "resources: [manifests.yaml]\n"} {
		// Flux makes the latter itself
		if err := os.WriteFile(filepath.Join(branch, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	synced, err := fluxBuild(branch)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(rendered, synced); diff != "" {
		t.Errorf("Flux changes what was rendered:\n%s", diff)
	}
}

// A kpt package syncs as it is: what is no manifest is local config, which kustomize leaves out.
func TestFluxSyncsAPackage(t *testing.T) {
	e := example.Copy(t, "../../examples/shop")
	remove(t, e, "kustomization.yaml", "base/kustomization.yaml", "mtls")
	e.IssuePackage(t, time.Now())
	var resources []string // as Flux's generator lists them
	for name := range files(t, e.Dir) {
		if strings.HasSuffix(name, ".yaml") {
			resources = append(resources, "."+name)
		}
	}
	write(t, e, "kustomization.yaml", "resources: ["+strings.Join(resources, ", ")+"]\n")
	synced, err := fluxBuild(e.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(synced, "kind: CertificateAuthority") || strings.Contains(synced, "kind: MutualTLS") {
		t.Error("Flux would apply the state of the CA or the config")
	}
	e.Verify(t, synced)
}

// The parts of examples/flux fit each other: the workflow renders into the branch that Flux syncs, and its scripts are
// ones.
func TestFluxExampleFits(t *testing.T) {
	type object struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct {
			Interval, Timeout metav1.Duration
			URL, Path         string
			Ref               struct{ Branch string }
			SourceRef         struct{ Kind, Name string }
			DependsOn         []struct{ Name string }
			Prune, Wait       bool
		} `json:"spec"`
	}
	text, err := os.ReadFile("../../examples/flux/sync.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var source, sync object
	first, second, _ := strings.Cut(string(text), "\n---\n")
	for document, into := range map[string]*object{first: &source, second: &sync} {
		if err := yaml.UnmarshalStrict([]byte(document), into); err != nil {
			t.Fatal(err)
		}
	}
	if source.Kind != "GitRepository" || sync.Kind != "Kustomization" || sync.Spec.SourceRef.Kind != source.Kind || sync.Spec.SourceRef.Name != source.Name || source.Namespace != sync.Namespace {
		t.Errorf("the Kustomization does not sync the GitRepository: %+v, %+v", source, sync)
	}
	var workflow struct {
		Jobs map[string]struct{ Steps []struct{ Run string } }
	}
	if text, err = os.ReadFile("../../examples/flux/ci/github.yaml"); err == nil {
		err = yaml.Unmarshal(text, &workflow)
	}
	if err != nil {
		t.Fatal(err)
	}
	renders := false
	for name, job := range workflow.Jobs {
		for _, step := range job.Steps {
			renders = renders || strings.Contains(step.Run, " shop "+source.Spec.Ref.Branch+"\n")
			if _, stderr, err := command(t, step.Run, "bash", "-n"); err != nil {
				t.Errorf("job %s: %s", name, stderr)
			}
		}
	}
	if !renders {
		t.Errorf("no job renders into %s", source.Spec.Ref.Branch)
	}
}

// argoCD is the part of Argo CD's install.yaml that the Components patch.
const argoCD = `apiVersion: apps/v1
kind: Deployment
metadata: {name: argocd-repo-server}
spec:
  selector: {matchLabels: {app.kubernetes.io/name: argocd-repo-server}}
  template:
    metadata: {labels: {app.kubernetes.io/name: argocd-repo-server}}
    spec:
      initContainers:
        - {name: copyutil, image: quay.io/argoproj/argocd, volumeMounts: [{name: var-files, mountPath: /var/run/argocd}]}
      containers:
        - {name: argocd-repo-server, image: quay.io/argoproj/argocd, volumeMounts: [{name: plugins, mountPath: /home/argocd/cmp-server/plugins}]}
      volumes: [{name: var-files, emptyDir: {}}, {name: plugins, emptyDir: {}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: argocd-cm}
`

// argoCDWith builds Argo CD with one of the Components of examples/argocd.
func argoCDWith(t *testing.T, component string) (deployment appsv1.Deployment, configMaps map[string]corev1.ConfigMap) {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../examples/argocd")); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"install.yaml": argoCD, "kustomization.yaml": "namespace: argocd\nresources: [install.yaml]\ncomponents: [" + component + "]\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := fluxBuild(dir)
	if err != nil {
		t.Fatal(err)
	}
	configMaps = map[string]corev1.ConfigMap{}
	for document := range strings.SplitSeq(text, "\n---\n") {
		var into any = &deployment
		var configMap corev1.ConfigMap
		if strings.Contains(document, "\nkind: ConfigMap\n") {
			into = &configMap
		}
		if err := yaml.UnmarshalStrict([]byte(document), into); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		if configMap.Name != "" {
			configMaps[configMap.Name] = configMap
		}
	}
	return deployment, configMaps
}

// Both Components give a Deployment whose fields Kubernetes knows, whose mounts have volumes, and that installs the
// binary of this release.
func TestArgoCDComponents(t *testing.T) {
	for _, component := range []string{"plugin", "build-options"} {
		t.Run(component, func(t *testing.T) {
			deployment, configMaps := argoCDWith(t, component)
			pod := deployment.Spec.Template.Spec
			volumes := map[string]corev1.Volume{}
			for _, v := range pod.Volumes {
				volumes[v.Name] = v
			}
			installs, mounts := false, false
			for _, c := range append(pod.InitContainers, pod.Containers...) {
				for _, m := range c.VolumeMounts {
					if _, ok := volumes[m.Name]; !ok {
						t.Errorf("container %s mounts the volume %s, which is none", c.Name, m.Name)
					}
					mounts = mounts || m.MountPath == "/usr/local/bin/meshless" && m.SubPath == "meshless"
				}
				installs = installs || c.Image == api.FnImage && strings.Join(c.Args, " ") == "install /custom-tools"
			}
			if !installs || !mounts {
				t.Errorf("the binary is installed: %v, and on the PATH: %v", installs, mounts)
			}
			if component == "build-options" {
				if got := configMaps["argocd-cm"].Data["kustomize.buildOptions"]; got != "--enable-alpha-plugins --enable-exec" {
					t.Errorf("kustomize.buildOptions is %q", got)
				}
				return
			}
			source := volumes["meshless-plugin"].ConfigMap
			if source == nil || configMaps[source.Name].Data["plugin.yaml"] == "" {
				t.Errorf("the plugin's config is not among the ConfigMaps: %v", source)
			}
		})
	}
}

// The image installs its program as the init container does: as uid 999, without anything else in the image.
func TestArgoCDInitContainerInstalls(t *testing.T) {
	needImage(t)
	deployment, _ := argoCDWith(t, "plugin")
	inits := deployment.Spec.Template.Spec.InitContainers
	i := slices.IndexFunc(inits, func(c corev1.Container) bool { return c.Name == "meshless-install" })
	if i < 0 || len(inits[i].VolumeMounts) != 1 {
		t.Fatalf("the init containers are %v", inits)
	}
	tools := filepath.Join(t.TempDir(), "tools")
	if err := os.Mkdir(tools, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(tools, 0o777); err != nil { // an emptyDir is everybody's; no umask
		t.Fatal(err)
	}
	args := append([]string{"run", "--rm", "--network=none", "--read-only", "--cap-drop=ALL", "--user=999", "--volume=" + tools + ":" + inits[i].VolumeMounts[0].MountPath, inits[i].Image}, inits[i].Args...)
	if out, stderr, err := command(t, "", "docker", args...); err != nil {
		t.Fatalf("docker run: %v\n%s%s", err, out, stderr)
	}
	if out, stderr, err := command(t, "", filepath.Join(tools, "meshless"), "--version"); err != nil || !strings.Contains(out, api.Version) {
		t.Errorf("the installed program says %q: %v\n%s", out, err, stderr)
	}
}

// The plugin's command, run in the source folder as Argo CD's cmp-server runs it, prints what kustomize renders, and
// nothing when that is not sound.
func TestArgoCDPluginGenerates(t *testing.T) {
	_, configMaps := argoCDWith(t, "plugin")
	var plugin struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct {
			Generate struct{ Command, Args []string } `json:"generate"`
		} `json:"spec"`
	}
	for _, configMap := range configMaps {
		if text := configMap.Data["plugin.yaml"]; text != "" {
			if err := yaml.UnmarshalStrict([]byte(text), &plugin); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("PATH", filepath.Dir(program.Kustomize(t))+string(os.PathListSeparator)+os.Getenv("PATH"))
	e := example.Copy(t, "../../examples/shop")
	e.Issue(t, time.Now())
	generate := func() (stdout, stderr string, err error) {
		t.Chdir(e.Dir)
		line := append(plugin.Spec.Generate.Command, plugin.Spec.Generate.Args...)
		return command(t, "", line[0], line[1:]...)
	}
	want := e.Render(t)
	got, stderr, err := generate()
	if err != nil {
		t.Fatalf("generate: %v\n%s", err, stderr)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the plugin prints something else than kustomize:\n%s", diff)
	}
	e.Edit(t, "kustomization.yaml", func(text string) string { return strings.Replace(text, "transformers: [mtls.yaml]", "", 1) })
	if got, stderr, err := generate(); err == nil || got != "" || !strings.Contains(stderr, "is not in the mesh") {
		t.Errorf("generate without the function: %v, %d bytes, %s", err, len(got), stderr)
	}
	e.Edit(t, "kustomization.yaml", func(string) string { return "resources: [none.yaml]\n" })
	if got, _, err := generate(); err == nil || got != "" {
		t.Errorf("generate of a broken kustomization: %v, %d bytes", err, len(got))
	}
}
