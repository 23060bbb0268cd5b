//go:build e2e && linux

package argocd

import (
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/program"
)

// namespace is Argo CD's own.
const namespace = "argocd"

// kustomization is Argo CD with the Components of examples/argocd, as docs/argocd.md says, and images of this machine.
const kustomization = `namespace: argocd
resources: [install.yaml, project.yaml]
components: [plugin, build-options, health]
images:
  - {name: quay.io/argoproj/argocd, newName: meshless-test/argocd, newTag: VERSION}
  - {name: public.ecr.aws/docker/library/redis, newName: meshless-test/argocd, newTag: VERSION}
patches:
  - target: {kind: Deployment, name: argocd-redis}
    patch: '[{"op": "add", "path": "/spec/template/spec/containers/0/command", "value": ["redis-server"]}]'
  - target: {kind: Secret, name: argocd-secret}
    patch: '[{"op": "add", "path": "/stringData", "value": {"server.secretkey": "SECRETKEY"}}]' # argocd-server makes it
`

// project is the one that argocd-server makes, which the core installation does without.
const project = `apiVersion: argoproj.io/v1alpha1
kind: AppProject
metadata: {name: default}
spec:
  sourceRepos: ["*"]
  destinations: [{server: "*", namespace: "*"}]
  clusterResourceWhitelist: [{group: "*", kind: "*"}]
`

// install brings Argo CD up. It goes with the test, and with it what it has outside of its namespace.
func install(t *testing.T) {
	t.Helper()
	const how = "test/cluster/argocd/argocd.sh builds it, and test/up.sh makes an image of it"
	kbin := filepath.Dir(program.Find(t, "argocd", how))
	manifests, err := os.ReadFile(filepath.Join(kbin, "argocd.yaml"))
	if err != nil {
		program.Missing(t, "%v: %s", err, how)
	}
	version, err := os.ReadFile(filepath.Join(kbin, "argocd.version"))
	if err != nil {
		program.Missing(t, "%v: %s", err, how)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../../examples/argocd")); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"install.yaml":       strings.ReplaceAll(string(manifests), "imagePullPolicy: Always", "imagePullPolicy: IfNotPresent"),
		"project.yaml":       project,
		"kustomization.yaml": strings.NewReplacer("VERSION", strings.TrimSpace(string(version)), "SECRETKEY", rand.Text()).Replace(kustomization),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	built, err := exec.CommandContext(t.Context(), program.Kustomize(t), "build", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("kustomize build: %v\n%s", err, built)
	}
	t.Cleanup(func() { uninstall(t) }) // last of all: what is in its namespace needs its kinds
	stage.NewNamespace(t, namespace)
	definitions, rest := split(string(built))
	// Too large for the annotation of a client-side apply.
	stage.Must(t, definitions, "apply", "--server-side", "--force-conflicts", "-f", "-")
	stage.Poll(t, 30*time.Second, func() error { // wait fails where there is no condition yet
		_, err := stage.Kubectl("", "wait", "--for=condition=Established", "--timeout=30s", "crd", "-l", "app.kubernetes.io/part-of=argocd")
		return err
	})
	stage.Must(t, rest, "apply", "--server-side", "--force-conflicts", "-f", "-")
	stage.Rollout(t, namespace, "deployment/argocd-redis", "deployment/argocd-repo-server", "statefulset/argocd-application-controller", "deployment/argocd-applicationset-controller", "deployment/argocd-commit-server")
}

// split sets the definitions of kinds apart from their objects.
func split(manifests string) (definitions, rest string) {
	for document := range strings.SplitSeq(manifests, "\n---\n") {
		if strings.Contains(document, "\nkind: CustomResourceDefinition\n") {
			definitions += document + "\n---\n"
			continue
		}
		rest += document + "\n---\n"
	}
	return definitions, rest
}

// uninstall removes what is not in the namespace.
func uninstall(t *testing.T) {
	if os.Getenv("KEEP") != "" {
		return
	}
	for _, kind := range []string{"clusterrole", "clusterrolebinding", "crd"} {
		if _, err := stage.Kubectl("", "delete", kind, "-l", "app.kubernetes.io/part-of=argocd", "--ignore-not-found", "--wait=false"); err != nil {
			t.Error(err)
		}
	}
}

// argocd runs the command line against the cluster alone, without argocd-server.
func argocd(t *testing.T, args ...string) (string, error) {
	t.Helper()
	config := filepath.Join(t.TempDir(), "config")
	text := stage.Must(t, "", "config", "view", "--raw", "--flatten", "--minify")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	stage.Must(t, "", "--kubeconfig", config, "config", "set-context", "--current", "--namespace", namespace)
	cmd := exec.CommandContext(t.Context(), "timeout", append([]string{"60", program.Lookup("argocd"), "--core"}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+config)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
