package sops

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"
	"sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/proxy/config"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/test/program"
)

// flux builds and decrypts a folder as kustomize-controller does; without a key the Kustomization has no
// spec.decryption.
func flux(t *testing.T, folder, key string) (string, error) {
	t.Helper()
	args := []string{filepath.Dir(folder), filepath.Base(folder)}
	if key != "" {
		args = append(args, write(t, filepath.Join(t.TempDir(), "age.agekey"), key+"\n"))
	}
	cmd := exec.CommandContext(t.Context(), program.Find(t, "flux-decrypt", "test/sops/programs.sh builds it"), args...)
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%w: %s", err, &stderr)
	}
	return out.String(), nil
}

// branch is what CI renders, with the kustomization that Flux makes.
func branch(t *testing.T, rendered, more string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "manifests.yaml"), rendered)
	write(t, filepath.Join(dir, "kustomization.yaml"), "resources: [manifests.yaml]\n"+more)
	return dir
}

// Flux's own decryptor opens every Secret, touches nothing else, and the proxies start with what it applies.
func TestFluxDecrypts(t *testing.T) {
	e, key := shop(t)
	rendered := e.Render(t)
	applied, err := flux(t, branch(t, rendered, ""), key)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range secrets(t, applied) {
		text := read(t, file)
		keyPair(t, text)
		if strings.Contains(text, "sops:") || strings.Contains(text, "ENC[") {
			t.Errorf("Flux would apply\n%s", text)
		}
	}
	if diff := cmp.Diff(withoutSecrets(t, rendered), withoutSecrets(t, applied)); diff != "" {
		t.Errorf("Flux changes more than the Secrets:\n%s", diff)
	}
	for _, item := range documents(t, applied) {
		if kind := item.GetKind(); kind == "Deployment" || kind == "StatefulSet" {
			startProxy(t, item, documents(t, applied))
		}
	}
}

// Flux finds the keys as well where its kustomization edits all metadata, which the mesh would not forgive, and SOPS
// does.
func TestFluxDecryptsAfterAnOverlay(t *testing.T) {
	e, key := shop(t)
	applied, err := flux(t, branch(t, e.Render(t), "namePrefix: pre-\ncommonAnnotations: {a: b}\nlabels: [{pairs: {c: d}}]\n"), key)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range secrets(t, applied) {
		keyPair(t, read(t, file))
	}
}

// Without the key, or with another one, Flux applies nothing.
func TestFluxRefuses(t *testing.T) {
	e, _ := shop(t)
	_, stranger := shop(t)
	folder := branch(t, e.Render(t), "")
	for key, want := range map[string]string{"": "configuring decryption is required", stranger: "cannot get sops data key"} {
		if _, err := flux(t, folder, key); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Flux says %v, want %q", err, want)
		}
	}
}

// A kpt package syncs as it is.
func TestFluxDecryptsAPackage(t *testing.T) {
	e, key := shop(t)
	for _, name := range []string{"kustomization.yaml", "base/kustomization.yaml", "mtls"} {
		if err := os.RemoveAll(filepath.Join(e.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	e.IssuePackage(t, time.Now())
	e.VerifyDir(t)
	var resources []string
	for _, pattern := range []string{"base/*.yaml", "mtls/*.yaml", "mtls/*/*.yaml", "*.yaml"} {
		files, err := filepath.Glob(filepath.Join(e.Dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			resources = append(resources, strings.TrimPrefix(file, e.Dir+"/"))
		}
	}
	write(t, filepath.Join(e.Dir, "kustomization.yaml"), "resources: ["+strings.Join(resources, ", ")+"]\n")
	applied, err := flux(t, e.Dir, key)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range secrets(t, applied) {
		keyPair(t, read(t, file))
	}
}

func withoutSecrets(t *testing.T, text string) string {
	t.Helper()
	var out strings.Builder
	for _, item := range documents(t, text) {
		if item.GetKind() != "Secret" {
			out.WriteString("---\n" + item.MustString())
		}
	}
	return out.String()
}

// startProxy gives the proxy's own code the files that the kubelet would mount, and holds what it reads against the
// workload's identity.
func startProxy(t *testing.T, item *kyaml.RNode, objects []*kyaml.RNode) {
	t.Helper()
	var workload appsv1.Deployment // of a StatefulSet the pod template is the same
	if err := yaml.Unmarshal([]byte(item.MustString()), &workload); err != nil {
		t.Fatal(err)
	}
	dir, pod := t.TempDir(), workload.Spec.Template
	i := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == api.VolumeName })
	for _, source := range pod.Spec.Volumes[i].Projected.Sources {
		switch {
		case source.Secret != nil:
			mount(t, dir, source.Secret.Items, dataOf(t, objects, "Secret", source.Secret.Name))
		case source.ConfigMap != nil:
			mount(t, dir, source.ConfigMap.Items, dataOf(t, objects, "ConfigMap", source.ConfigMap.Name))
		case source.DownwardAPI != nil:
			write(t, filepath.Join(dir, source.DownwardAPI.Items[0].Path), pod.Annotations[api.WorkloadAnnotation])
		}
	}
	g, err := config.Read(dir)
	if err != nil {
		t.Fatalf("%s %s: %v", item.GetKind(), item.GetName(), err)
	}
	if g.SealedKey != nil || g.Identity != nil {
		t.Errorf("%s %s: the pod has a sealed key or an age identity", item.GetKind(), item.GetName())
	}
	snapshot, err := identity.New(g, time.Now)
	if err != nil {
		t.Fatalf("%s %s: the proxy refuses its files: %v", item.GetKind(), item.GetName(), err)
	}
	want := fmt.Sprintf("spiffe://cluster.local/ns/acme-shop/%s/%s", strings.ToLower(item.GetKind()), item.GetName())
	if snapshot.Workload.SPIFFEID != want {
		t.Errorf("the proxy is %s, want %s", snapshot.Workload.SPIFFEID, want)
	}
}

func mount(t *testing.T, dir string, items []corev1.KeyToPath, data map[string][]byte) {
	t.Helper()
	for _, item := range items {
		if data[item.Key] == nil {
			t.Fatalf("the key %s is mounted and is not there", item.Key)
		}
		write(t, filepath.Join(dir, item.Path), string(data[item.Key]))
	}
}

// dataOf is the data of a Secret or ConfigMap, as bytes.
func dataOf(t *testing.T, objects []*kyaml.RNode, kind, name string) map[string][]byte {
	t.Helper()
	for _, object := range objects {
		if object.GetKind() != kind || object.GetName() != name {
			continue
		}
		if kind == "Secret" {
			return keyPair(t, object.MustString()).Data
		}
		data := map[string][]byte{}
		for key, text := range object.GetDataMap() {
			data[key] = []byte(text)
		}
		return data
	}
	t.Fatalf("%s %s is mounted and is not there", kind, name)
	return nil
}
