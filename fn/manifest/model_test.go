package manifest_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
)

// TestBuildFindings: what the reader says of single manifests, with object and field.
func TestBuildFindings(t *testing.T) {
	const web = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: prod}
spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: web:1, ports: [{name: http, containerPort: 80}]}]}}}
`
	const service = `
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: prod}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`
	for name, c := range map[string]struct{ manifests, want string }{
		"nothing": {web + service, ""},
		// 65616 is 80 in 16 bits
		"containerPort": {strings.Replace(web, "containerPort: 80", "containerPort: 65616", 1),
			"error: deployment prod/web: spec.template.spec.containers[0].ports[0].containerPort: 65616 is no port: want 1 to 65535"},
		"no containerPort": {strings.Replace(web, "containerPort: 80", "containerPort: 0", 1),
			"error: deployment prod/web: spec.template.spec.containers[0].ports[0].containerPort: 0 is no port: want 1 to 65535"},
		"hostPort": {strings.Replace(web, "containerPort: 80", "containerPort: 80, hostPort: 65616", 1),
			"error: deployment prod/web: spec.template.spec.containers[0].ports[0].hostPort: 65616 is no port: want 1 to 65535"},
		"port": {web + strings.Replace(service, "port: 80", "port: -65456", 1),
			"error: service prod/web: spec.ports[0].port: -65456 is no port: want 1 to 65535"},
		"targetPort": {web + strings.Replace(service, "8080", "73616", 1),
			"error: service prod/web: spec.ports[0].targetPort: 73616 is no port: want 1 to 65535"},
		"clusterIP": {web + strings.Replace(service, "spec: {", "spec: {clusterIPs: [10.0.0.1, x], ", 1),
			"error: service prod/web: spec.clusterIPs[1]: \"x\" is not an IP address"},
		"shared address": {web + strings.Replace(service, "spec: {", "spec: {clusterIP: 10.0.0.1, ", 1) +
			strings.NewReplacer("name: web", "name: other", "spec: {", "spec: {externalIPs: [10.0.0.2, 10.0.0.1], ").Replace(service),
			"error: service prod/other: spec.externalIPs[1]: claims 10.0.0.1, as service prod/web does"},
		"no class": {strings.Replace(web, "labels: {app: web}", "labels: {app: web}, annotations: {meshless.dev/qos-class: Guaranteed}", 1),
			"error: deployment prod/web: spec.template.metadata.annotations[meshless.dev/qos-class]: is not Keep or Ignore"},
		"no limit": {strings.Replace(web, "labels: {app: web}", "labels: {app: web}, annotations: {meshless.dev/proxy-cpu-limit: much}", 1),
			"error: deployment prod/web: spec.template.metadata.annotations[meshless.dev/proxy-cpu-limit]: is not a quantity like 100m or 64Mi"},
		"name":      {strings.Replace(web, "name: web", "name: Web", 1), "error: deployment prod/Web: metadata.name: \"Web\" in namespace"},
		"namespace": {strings.Replace(web, "prod", "a.b", 1), "error: deployment a.b/web: metadata.namespace: \"web\" in namespace"},
		"type":      {strings.Replace(web, "containerPort: 80", "containerPort: '80'", 1), "error: deployment prod/web: spec.template.spec.containers[0].ports[0].containerPort: cannot be read: is a string where a number belongs"},
		"JobSet": {"{apiVersion: jobset.x-k8s.io/v1alpha2, kind: JobSet, metadata: {name: a}, spec: {replicatedJobs: [{template: {spec: {template: {spec: {containers: [{name: a}]}}}}}]}}",
			"warning: jobset a: spec.replicatedJobs[0].template.spec.template.spec.containers: makes pods that stay outside of the mesh: JobSet of jobset.x-k8s.io/v1alpha2 is no kind that meshless knows. To take them in, add to spec.workloads.templates of the config: {group: jobset.x-k8s.io, kind: JobSet, path: \"spec.replicatedJobs[].template.spec.template\"}"},
		"two Namespaces": {"{apiVersion: v1, kind: Namespace, metadata: {name: a}}\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: a}}", "error: namespace a: metadata.name: is in the input twice"},
		"local-config": {strings.Replace(web, "metadata: {name: web, ", `metadata: {name: web, annotations: {config.kubernetes.io/local-config: "true"}, `, 1),
			"warning: deployment prod/web: metadata.annotations[config.kubernetes.io/local-config]: keeps it out of the mesh"},
		"local config of a function": {`{apiVersion: e/v1, kind: F, metadata: {name: f, annotations: {config.kubernetes.io/local-config: "true"}}}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := v1alpha1.Load(yaml.MustParse("{apiVersion: meshless.dev/v1alpha1, kind: MutualTLS}"))
			if err != nil {
				t.Fatal(err)
			}
			items, err := (&kio.ByteReader{Reader: strings.NewReader(c.manifests), OmitReaderAnnotations: true}).Read()
			if err != nil {
				t.Fatal(err)
			}
			r := &report.Report{}
			manifest.Build(items, config.Spec, r)
			var said strings.Builder
			if err := r.WriteText(&said); err != nil {
				t.Fatal(err)
			}
			if got := said.String(); !strings.HasPrefix(got, c.want) || c.want == "" && got != "" || strings.Count(got, "\n") > 1 {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestPolicyName: policies belong to no namespace, so names of other packages and namespaces differ however they are
// cut.
func TestPolicyName(t *testing.T) {
	seen := map[string][]string{}
	for _, parts := range [][]string{{"a", "b-c", "Kind", "d"}, {"a-b", "c", "Kind", "d"}, {"a", "b", "C", "kind-d"}, {"a", "b", "C", "kind.d"}, {"a", "b", "Ckind", "d"}, {"a", "b-c", "Kind", strings.Repeat("d", 253)},
		{"a", "b", "Kind", strings.Repeat("d", 217) + "." + strings.Repeat("d", 30)}} {
		w := &manifest.Workload{Namespace: parts[1], Kind: parts[2], Name: parts[3]}
		name := w.PolicyName(parts[0])
		if other := seen[name]; other != nil {
			t.Errorf("%q and %q have policies of one name, %s", parts, other, name)
		}
		if bad := validation.IsDNS1123Subdomain(name); len(bad) > 0 {
			t.Errorf("%q: %s: %q", parts, name, bad)
		}
		seen[name] = parts
	}
}
