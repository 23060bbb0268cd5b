package cli_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/fn/cli"
)

const placesConfig = `apiVersion: meshless.dev/v1alpha1
kind: MutualTLS
metadata: {name: mtls, annotations: {config.kubernetes.io/local-config: "true"}}
spec:
  sealing: {recipients: [age1p2l8u0heu4vweyjh2zu2n2he6jtlt5xdpc8kvy9xswlzcz7gyews8q0z9m]}
  certificates: {ca: {recipients: [age1zyywgcj9gc7cdfs6dyxm4h8us3t7xltulxy7nj9lz5xf37y8c9uspcg87h]}}
`

const goodDeployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: prod}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: c, image: c:1}]
`

// findingsOf runs a command on a package of these files, and returns what it said and how it ended.
func findingsOf(t *testing.T, command string, files map[string]string) (string, int) {
	t.Helper()
	folder := t.TempDir()
	for name, text := range files {
		name = filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var out, errs bytes.Buffer
	code := cli.Main([]string{command, folder}, strings.NewReader(""), &out, &errs)
	return errs.String(), code
}

// asPackage is files of a kpt package with one more.
func asPackage(file, text string) map[string]string {
	return map[string]string{"Kptfile": "apiVersion: kpt.dev/v1\nkind: Kptfile\nmetadata: {name: p}\n", "mtls.yaml": placesConfig, "apps/good.yaml": goodDeployment, file: text}
}

var placed = regexp.MustCompile(` \((apps/[a-z]+\.yaml|mtls\.yaml)(:[0-9]+)?\)$`)

// TestErrorsNameFiles: whatever is wrong with an object, the line of the error ends with the file that holds it.
func TestErrorsNameFiles(t *testing.T) {
	const workload = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: prod}\n"
	for name, c := range map[string]struct{ command, text, want string }{
		"no kind":              {"verify", "metadata: {name: x}\n", "lacks apiVersion or kind, so it is no manifest. If it is a patch of a kustomization, name its file in a .krmignore"},
		"no name either":       {"verify", "a: b\n", "lacks apiVersion or kind"},
		"twice":                {"issue", goodDeployment, "stands twice in the input, first in apps/good.yaml:1. If it is a patch"},
		"twice, verified":      {"verify", goodDeployment, "stands twice in the input, first in apps/good.yaml:1. If it is a patch"},
		"another case":         {"issue", strings.Replace(goodDeployment, "apps/v1\nkind: Deployment", "batch/v1\nkind: Job", 1) + "---\n" + strings.Replace(goodDeployment, "apps/v1\nkind: Deployment", "batch/v1\nkind: Job", 1), "stands twice in the input, first in apps/x.yaml:1"},
		"a patch of replicas":  {"issue", workload + "spec: {replicas: 3}\n", "spec.template: is missing or no mapping. If it is a patch"},
		"a patch of labels":    {"issue", workload + "spec: {template: {metadata: {labels: {a: b}}}}\n", "spec.template.spec.containers: is empty. If it is a patch"},
		"a patch of resources": {"issue", workload + "spec: {template: {spec: {containers: [{name: c, resources: {}}]}}}\n", "spec.template.spec.containers[0].image: is missing. If it is a patch"},
		"no mapping":           {"issue", workload + "spec: {template: [a]}\n", "spec.template"},
		"a wrong type":         {"issue", workload + "spec: {template: {spec: {containers: x}}}\n", "spec.template.spec.containers: cannot be read"},
		"no name":              {"issue", "apiVersion: batch/v1\nkind: Job\nmetadata: {generateName: x-, namespace: prod}\nspec: {template: {spec: {containers: [{name: c, image: c}]}}}\n", "job of namespace prod: metadata.name: is missing"},
		"a list":               {"issue", "apiVersion: apps/v1\nkind: DeploymentList\nmetadata: {}\nitems:\n- metadata: {name: x}\n", "error: deploymentlist: items: a DeploymentList hides"},
		"a list in a List":     {"issue", "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {}}\n", "deployment x: spec.template: is missing"},
		"a key twice":          {"issue", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: b, a: c}\n", `holds the key "a" twice`},
		"a stray annotation":   {"issue", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, annotations: {meshless.dev/inject: enabled}}\n", "has no effect here"},
		"a Namespace twice":    {"issue", "apiVersion: v1\nkind: Namespace\nmetadata: {name: prod}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: prod}\n", "is in the input twice"},
		"a namespace's level":  {"issue", "apiVersion: v1\nkind: Namespace\nmetadata: {name: prod, labels: {pod-security.kubernetes.io/enforce: restricted}}\n", "namespace prod: metadata.labels[pod-security.kubernetes.io/enforce]"},
		"a Service's port":     {"issue", "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: prod}\nspec: {selector: {app: web}, ports: [{port: 70000}]}\n", "spec.ports[0].port"},
		"graph, twice":         {"graph", goodDeployment, "deployment prod/web (apps/"},
	} {
		t.Run(name, func(t *testing.T) {
			said, code := findingsOf(t, c.command, asPackage("apps/x.yaml", c.text))
			if code != 1 || !strings.Contains(said, c.want) {
				t.Errorf("exit code %d, said\n%swant %q", code, said, c.want)
			}
			checkPlaces(t, said, c.command == "graph")
		})
	}
}

// checkPlaces holds every finding against its place.
func checkPlaces(t *testing.T, said string, inside bool) {
	t.Helper()
	for line := range strings.Lines(said) {
		line = strings.TrimSpace(line)
		if (strings.HasPrefix(line, "error: ") || strings.HasPrefix(line, "warning: ")) && !placed.MatchString(line) && !(inside && strings.Contains(line, "apps/")) {
			t.Errorf("no file is named: %s", line)
		}
	}
}

// TestRefusalsNameFiles holds the same of everything that the golden cases refuse.
func TestRefusalsNameFiles(t *testing.T) {
	inputs, err := filepath.Glob("../pipeline/testdata/*/input.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no inputs (%v)", err)
	}
	errors := 0
	for _, input := range inputs {
		t.Run(filepath.Base(filepath.Dir(input)), func(t *testing.T) {
			text, err := os.ReadFile(input)
			if err != nil {
				t.Fatal(err)
			}
			said, _ := findingsOf(t, "issue", asPackage("apps/x.yaml", string(text)))
			errors += strings.Count(said, "error: ")
			checkPlaces(t, said, false)
		})
	}
	if errors < 50 {
		t.Errorf("there were %d errors; does this test still see them?", errors)
	}
}

// TestIgnoredPatches: the way out that the errors name is one.
func TestIgnoredPatches(t *testing.T) {
	files := asPackage("apps/overlay/patch.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: prod}\nspec: {replicas: 3}\n")
	if said, code := findingsOf(t, "issue", files); code != 1 || !strings.Contains(said, ".krmignore: kpt and meshless leave it alone then (apps/overlay/patch.yaml:") {
		t.Errorf("exit code %d, said\n%s", code, said)
	}
	files[".krmignore"] = "apps/overlay/patch.yaml\n"
	if said, code := findingsOf(t, "issue", files); code != 0 {
		t.Errorf("with .krmignore: exit code %d, said\n%s", code, said)
	}
}

// TestKustomizationsNameFiles: so it is where kustomize has read the files.
func TestKustomizationsNameFiles(t *testing.T) {
	said, code := findingsOf(t, "issue", map[string]string{
		"kustomization.yaml": "resources: [base]\ntransformers: [mtls.yaml]\n", "mtls.yaml": placesConfig,
		"base/kustomization.yaml": "resources: [bad.yaml]\n", "base/bad.yaml": strings.Replace(goodDeployment, "image: c:1", "image: c:1, ports: [{containerPort: 15001}]", 1),
	})
	if code != 1 || !strings.Contains(said, "deployment prod/web: spec.template.spec.containers[0].ports[0].containerPort: ") || !strings.Contains(said, "choose another (base/bad.yaml)\n") {
		t.Errorf("exit code %d, said\n%s", code, said)
	}
}

// TestListsWithoutWorkloads: a list of what makes no pods hides none.
func TestListsWithoutWorkloads(t *testing.T) {
	const lists = `apiVersion: v1
kind: ConfigMapList
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: dashboard, namespace: prod}, data: {a: "kind: Deployment"}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleList
items:
- {metadata: {name: r, namespace: prod}, rules: []}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBindingList
items: []
`
	if said, code := findingsOf(t, "issue", asPackage("apps/x.yaml", lists)); code != 0 {
		t.Errorf("exit code %d, said\n%s", code, said)
	}
	for name, text := range map[string]string{
		"a Deployment":  strings.Replace(lists, "kind: ConfigMap,", "kind: Deployment,", 1),
		"state of ours": strings.Replace(lists, "name: dashboard", "name: meshless-bundle-x", 1),
		"annotated":     strings.Replace(lists, "name: dashboard", "annotations: {meshless.dev/identity: x}, name: d", 1),
	} {
		if said, code := findingsOf(t, "issue", asPackage("apps/x.yaml", text)); code != 1 || !strings.Contains(said, "configmaplist: items: a ConfigMapList hides") {
			t.Errorf("%s: exit code %d, said\n%s", name, code, said)
		}
	}
}
