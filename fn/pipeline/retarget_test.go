package pipeline_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/internal/api"
)

// retargeted is a golden case with workloads that have no redirect rules.
func retargeted(t *testing.T, w *world, name string) (input, out []*yaml.RNode) {
	t.Helper()
	input = parse(t, readFile(t, "testdata/"+name+"/input.yaml"))
	out, _ = w.mustRun(t, input, w.config(t, readFile(t, "testdata/"+name+"/config.yaml")))
	return input, out
}

// TestRetargetingTakenBack: where every workload has redirect rules again, Services and NetworkPolicies are what people
// wrote, byte for byte, and nothing of ours is left.
func TestRetargetingTakenBack(t *testing.T) {
	for _, name := range []string{"no-redirect-services", "no-redirect-network-policies"} {
		w := newWorld(t)
		input, out := retargeted(t, w, name)
		for _, items := range [][]*yaml.RNode{input, out} { // which forbid rules, and ask for none
			for _, item := range items {
				switch item.GetKind() {
				case "Namespace":
					set(t, item, "privileged", "metadata", "labels", "pod-security.kubernetes.io/enforce")
				case "Deployment":
					if err := item.PipeE(yaml.Lookup("spec", "template"), yaml.ClearAnnotation(api.RedirectAnnotation)); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		back, _ := w.mustRun(t, out, w.config(t, plainConfig))
		rules, _ := (&world{cluster: w.cluster, ca: w.ca, now: w.now}).mustRun(t, input, w.config(t, plainConfig))
		for i, item := range rules[:len(input)] { // what is added comes behind
			if err := item.DeAnchor(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(item.MustString(), back[i].MustString()); diff != "" {
				t.Errorf("%s: %s %s is not what it is without the mode:\n%s", name, item.GetKind(), item.GetName(), diff)
			}
		}
		for _, item := range back {
			if text := item.MustString(); strings.Contains(text, "meshless.dev/direct") || strings.Contains(text, "meshless-direct") {
				t.Errorf("%s: something of the mode is left:\n%s", name, text)
			}
		}
	}
}

// TestRetargetingOfSorted: what kustomize makes of the output, a render leaves as it is.
func TestRetargetingOfSorted(t *testing.T) {
	for _, name := range []string{"no-redirect-services", "no-redirect-network-policies"} {
		w := newWorld(t)
		_, out := retargeted(t, w, name)
		once := sortKeys(t, out)
		again, _ := w.mustRun(t, once, w.config(t, readFile(t, "testdata/"+name+"/config.yaml")))
		if diff := cmp.Diff(text(t, once), text(t, sortKeys(t, again))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestRetargetingKeepsEdits: what people change in the output is theirs: it is rendered, and stays when the mode goes.
func TestRetargetingKeepsEdits(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, strings.Replace(plainConfig, "spec:\n", "spec:\n  redirect: {mode: None}\n", 1))
	const workload = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\nspec:\n  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web, tier: front}}\n" +
		"    spec: {containers: [{name: web, image: 'web:1', ports: [{containerPort: 8080, name: http}, {containerPort: 9090}]}]}\n"
	const service = "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\nspec:\n  selector: {app: web}\n  ports:\n  - port: 80\n    targetPort: TARGET\n"
	const policy = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: web\n  namespace: shop\nspec:\n  podSelector:\n    matchLabels:\n      app: web\n" +
		"  policyTypes: [Ingress, Egress]\n  ingress:\n  - ports:\n    - port: 8080\n  egress:\n  - ports:\n    - port: 8080\n"
	for name, edit := range map[string]struct{ old, with, wantService, wantPolicy string }{
		"nothing":         {"", "", service, policy},
		"the target port": {"targetPort: 30080", "targetPort: 9090", strings.Replace(service, "TARGET", "9090", 1), policy},
		"a port more": {"  - port: 80\n", "  - port: 79\n    name: other\n    targetPort: 9090\n  - port: 80\n    name: first\n",
			strings.Replace(service, "  - port: 80\n", "  - port: 79\n    name: other\n    targetPort: 9090\n  - port: 80\n    name: first\n", 1), policy},
		"another number":     {"  - port: 80\n    targetPort: 30080", "  - port: 81\n    targetPort: 30080", strings.Replace(service, "port: 80", "port: 81", 1), policy},
		"no port":            {"  - port: 80\n    targetPort: 30080\n", "  - port: 81\n", strings.Replace(service, "  - port: 80\n    targetPort: TARGET\n", "  - port: 81\n", 1), policy},
		"a label more":       {"      app: web\n  policyTypes", "      app: web\n      tier: front\n  policyTypes", service, strings.Replace(policy, "      app: web\n", "      app: web\n      tier: front\n", 1)},
		"a port of ingress":  {"  - ports:\n    - port: 8080\n  egress", "  - ports:\n    - port: 8080\n    - port: 9090\n  egress", service, strings.Replace(policy, "  - ports:\n    - port: 8080\n  egress", "  - ports:\n    - port: 8080\n    - port: 9090\n  egress", 1)},
		"a rule before":      {"\n  egress:\n", "\n  egress:\n  - ports:\n    - port: 53\n      protocol: UDP\n", service, ""},
		"our port taken out": {"    - protocol: TCP\n      port: 30080\n", "", service, policy},
		"our expression as well": {"    - key: meshless.dev/direct\n      operator: DoesNotExist\n", "    - key: meshless.dev/direct\n      operator: DoesNotExist\n    - key: app\n      operator: Exists\n", service,
			strings.Replace(policy, "    matchLabels:", "    matchExpressions:\n    - key: app\n      operator: Exists\n    matchLabels:", 1)},
	} {
		out, _ := w.mustRun(t, parse(t, workload+strings.Replace(service, "TARGET", "http", 1)+policy), config)
		before := text(t, out)
		if !strings.Contains(before, edit.old) {
			t.Fatalf("%s: the output holds no %q:\n%s", name, edit.old, before)
		}
		edited, _ := w.mustRun(t, parse(t, strings.Replace(before, edit.old, edit.with, 1)), config)
		if again, _ := w.mustRun(t, edited, config); text(t, again) != text(t, edited) {
			t.Errorf("%s: a second render changes the output", name)
		}
		back, _ := w.mustRun(t, edited, w.config(t, plainConfig))
		for kind, want := range map[string]string{"Service": strings.Replace(edit.wantService, "TARGET", "http", 1), "NetworkPolicy": edit.wantPolicy} {
			if got := find(t, back, kind, "web").MustString(); want != "" && "---\n"+got != want {
				t.Errorf("%s: the %s is\n%s\nwant\n%s", name, kind, got, want)
			}
		}
	}
}

// TestRetargetingPlaces: the NetworkPolicies of ours are stored like other state, one in a file, and one that no
// workload needs goes.
func TestRetargetingPlaces(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, strings.Replace(plainConfig, "spec:\n", "spec:\n  redirect: {mode: None}\n", 1))
	out, _ := w.mustRun(t, parse(t, twoDeployments), config)
	item := find(t, out, manifest.NetworkPolicyKind, "meshless-direct-deployment-api")
	if file := item.GetAnnotations()["internal.config.kubernetes.io/path"]; file != "mtls/prod/direct-deployment-api.yaml" {
		t.Errorf("it is stored in %q", file)
	}
	left := out[:0:0]
	for _, item := range out {
		if item.GetKind() != "Deployment" || item.GetName() != "api" {
			left = append(left, item)
		}
	}
	again, _ := w.mustRun(t, left, config)
	for _, item := range again {
		if item.GetName() == "meshless-direct-deployment-api" {
			t.Error("it is still there")
		}
	}
}

// TestRetargetingOfPlaintextServices: a Service that clients take for one outside of the mesh, and that may lead to a
// workload of it, leads to the proxy as well, which decides by the port's mode.
func TestRetargetingOfPlaintextServices(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, strings.Replace(plainConfig, "spec:\n", "spec:\n  redirect: {mode: None}\n  outbound: {plaintextServices: [web.shop]}\n", 1))
	const input = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\nspec:\n  selector: {matchLabels: {app: web}}\n  template:\n" +
		"    metadata: {labels: {app: web}, annotations: {meshless.dev/permissive-ports: \"8080\"}}\n    spec: {containers: [{name: web, image: 'web:1', ports: [{containerPort: 8080}]}]}\n" +
		"---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {selector: {app: web, role: primary}, ports: [{port: 80, targetPort: 8080}]}\n"
	out, _ := w.mustRun(t, parse(t, input), config)
	if text := find(t, out, "Service", "web").MustString(); !strings.Contains(text, "targetPort: 30080") {
		t.Errorf("it leads past the proxy:\n%s", text)
	}
}

// TestRetargetingRefusesNames: a NetworkPolicy of somebody's that is called like one of ours would take its place.
func TestRetargetingRefusesNames(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, strings.Replace(plainConfig, "spec:\n", "spec:\n  redirect: {mode: None}\n", 1))
	const planted = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: meshless-direct-deployment-web, namespace: prod}\nspec: {podSelector: {}, ingress: [{}]}\n"
	const want = "metadata.name: is the name that a render gives to the NetworkPolicy of deployment prod/web"
	if _, r := w.run(parse(t, twoDeployments+planted), config); !strings.Contains(strings.Join(r.Errors(), "\n"), want) {
		t.Errorf("said %q, want %q", r.Errors(), want)
	}
}
