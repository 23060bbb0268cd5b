package admission_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/kio"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"
	"sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/fn/admission"
	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/inject"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/podspec"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// configs are specs in which nothing, and everything, is said that pods are told.
var configs = map[string]string{
	"plain":     "{}",
	"container": "{sidecar: {mode: Container}}",
	"exclusions": `{sidecar: {uid: 1234}, inbound: {excludePorts: [8080, "9000-9100"], excludeInterfaces: [net1], clientCIDRs: [198.51.100.0/24]},
		outbound: {excludePorts: [25], excludeCIDRs: [10.1.0.0/16], excludeUIDs: [1001]}, proxy: {logLevel: debug, idleTimeout: 8h}}`,
	"others": `{sidecar: {mode: Container}, init: {backend: IPTables, resources: {limits: {cpu: 1}}}, proxy: {fips140: true, records: Standard, imagePullPolicy: Always, image: "mirror.example/proxy@sha256:00", logLevel: warn},
		certificates: {issuer: CertManager, certManager: {issuerRef: {name: mesh}}}}`,
	"resources": "{proxy: {resources: {requests: {cpu: 20m}}}}",
	"Keep":      "{sidecar: {qosClass: Keep}}",
	"Keep what is said": `{sidecar: {mode: Container, qosClass: Keep}, init: {resources: {requests: {cpu: 20m}}},
		proxy: {resources: {limits: {memory: 1Gi, ephemeral-storage: 1Gi}}}}`,
	"Keep nothing": "{sidecar: {qosClass: Keep}, init: {resources: {}}, proxy: {resources: {}}}",
}

// overrides are annotations, declared or on the template.
var overrides = map[string]string{api.PermissivePortsAnnotation: "9187", api.StrictPortsAnnotation: "5432", api.ExcludeInboundPortsAnnotation: "7000-7001",
	api.ProxyCPUAnnotation: "50m", api.LogLevelAnnotation: "error"}

// pods are templates of one pod each, beside those of the golden cases.
var pods = map[string]string{
	"bare": "{containers: [{name: a, image: a}]}",
	"probes of every kind": `
terminationGracePeriodSeconds: 3600
initContainers:
- {name: first, image: a}
- name: sidecar
  image: a
  restartPolicy: Always
  ports: [{name: web, containerPort: 81}]
  startupProbe: {tcpSocket: {port: web}, timeoutSeconds: 9}
volumes: [{name: data, emptyDir: {}}]
containers:
- name: a
  image: a
  ports: [{name: web, containerPort: 80}, {name: dns, containerPort: 53, protocol: UDP}]
  livenessProbe: {httpGet: {port: web, path: "/a?b=\"<c>\"\\d&\té", scheme: HTTPS, httpHeaders: [{name: A, value: "x\"\n\\"}, {name: A, value: ""}]}}
  readinessProbe: {grpc: {port: 9500, service: 'say "it"'}, timeoutSeconds: 5}
  startupProbe: {exec: {command: ["true"]}}
  lifecycle: {postStart: {httpGet: {port: 8000}}, preStop: {tcpSocket: {port: 82}}}
- name: b
  image: a
  livenessProbe: {httpGet: {port: 9000, host: example.test}}
  readinessProbe: {httpGet: {port: 9050, path: /excluded}}
  startupProbe: {grpc: {port: 80}}
  lifecycle: {postStart: {exec: {command: ["true"]}}, preStop: {sleep: {seconds: 5}}}
`,
	"CloudNativePG": `
hostname: pg-1
terminationGracePeriodSeconds: 1800
securityContext: {runAsNonRoot: true, runAsUser: 26, runAsGroup: 26, fsGroup: 26, seccompProfile: {type: RuntimeDefault}}
initContainers: [{name: bootstrap-controller, image: operator, command: [/manager, bootstrap, /controller/manager]}]
containers:
- name: postgres
  image: postgres
  command: [/controller/manager, instance, run, --status-port-tls]
  env: [{name: PGHOST, value: /controller/run}]
  ports: [{name: postgresql, containerPort: 5432, protocol: TCP}, {name: metrics, containerPort: 9187, protocol: TCP}, {name: status, containerPort: 8000, protocol: TCP}]
  startupProbe: {failureThreshold: 360, periodSeconds: 10, timeoutSeconds: 5, httpGet: {path: /healthz, port: 8000, scheme: HTTPS}}
  readinessProbe: {periodSeconds: 10, timeoutSeconds: 5, httpGet: {path: /readyz, port: 8000, scheme: HTTPS}}
  livenessProbe: {periodSeconds: 10, timeoutSeconds: 5, httpGet: {path: /healthz, port: 8000, scheme: HTTPS}}
  volumeMounts: [{name: pgdata, mountPath: /var/lib/postgresql/data}]
volumes: [{name: pgdata, persistentVolumeClaim: {claimName: pg-1}}]
`,
	"limit of storage":                    "{containers: [{name: a, image: a}, {name: b, image: a, resources: {limits: {ephemeral-storage: 1Gi}}}]}",
	"of an init container":                "{initContainers: [{name: i, image: a, resources: {limits: {ephemeral-storage: 1}}}], containers: [{name: a, image: a}]}",
	"limit of nothing":                    "{containers: [{name: b, image: a, resources: {limits: {ephemeral-storage: 0Gi}}}]}",
	"Guaranteed":                          "{initContainers: [{name: i, image: a, resources: {limits: {cpu: 500m, memory: 1Gi}, requests: {cpu: 0.5, memory: 1024Mi}}}], containers: [{name: a, image: a, resources: {limits: {cpu: 2, memory: 1Gi}}}]}",
	"Guaranteed, with a limit of storage": "{containers: [{name: a, image: a, resources: {limits: {cpu: 2, memory: 1Gi, ephemeral-storage: 1Gi}}}]}",
	"Burstable by an init container":      "{initContainers: [{name: i, image: a}], containers: [{name: a, image: a, resources: {limits: {cpu: 2, memory: 1Gi}}}]}",
	"Burstable by a request":              "{containers: [{name: a, image: a, resources: {limits: {cpu: 2, memory: 1Gi}, requests: {cpu: 1999m}}}]}",
	"Burstable by a limit":                "{containers: [{name: a, image: a, resources: {limits: {memory: 1Gi}}}]}",
	"Burstable by zero":                   "{containers: [{name: a, image: a, resources: {limits: {cpu: 0, memory: 1Gi}}}]}",
	"Guaranteed as a whole":               "{resources: {limits: {cpu: 2, memory: 1Gi}, requests: {cpu: 2, memory: 1Gi}}, containers: [{name: a, image: a, resources: {limits: {ephemeral-storage: 1Gi}}}]}",
	"resources as a whole":                "{resources: {limits: {cpu: 2, memory: 1Gi}}, initContainers: [{name: i, image: a}], containers: [{name: a, image: a}], volumes: [{name: v, emptyDir: {}}]}",
}

// declared is the model of a config in which Cluster shop/pg is declared, or in which the input has it with a pod
// template.
func declared(t testing.TB, spec string, template *corev1.PodTemplateSpec) (*manifest.Workload, *report.Report) {
	t.Helper()
	config, err := v1alpha1.Load(kyaml.MustParse("{apiVersion: meshless.dev/v1alpha1, kind: MutualTLS, spec: " + spec + "}"))
	if config == nil {
		t.Fatal(err)
	}
	var items []*kyaml.RNode
	if template == nil {
		config.Spec.Workloads.Declared = []v1alpha1.DeclaredWorkload{{Kind: "Cluster", Name: "pg", Namespace: "shop", Annotations: overrides}}
	} else {
		config.Spec.Workloads.Templates = []v1alpha1.PodTemplate{{Group: "example.test", Kind: "Cluster", Path: "spec.template"}}
		text, err := json.Marshal(map[string]any{"apiVersion": "example.test/v1", "kind": "Cluster", "metadata": map[string]any{"name": "pg", "namespace": "shop"}, "spec": map[string]any{"template": template}})
		if err != nil {
			t.Fatal(err)
		}
		items = append(items, kyaml.MustParse(string(text)))
	}
	r := &report.Report{}
	m := manifest.Build(items, config.Spec, r)
	if r.Failed() || len(m.Workloads) != 1 {
		return nil, r
	}
	return m.Workloads[0], r
}

// policiesOf are the policies of the declared workload of a config.
func policiesOf(t testing.TB, spec string) *policies {
	t.Helper()
	w, r := declared(t, spec, nil)
	if w == nil {
		t.Fatal(r.Errors())
	}
	specs, err := admission.Specs("name", w.Declaration, w.Plan)
	if err != nil {
		t.Fatal(err)
	}
	var m admissionregistrationv1.MutatingAdmissionPolicy
	var v admissionregistrationv1.ValidatingAdmissionPolicy
	for i, into := range []any{&m.Spec, nil, &v.Spec, nil} {
		if into == nil {
			continue
		}
		text, err := kyaml.NewRNode(specs[i]).String()
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
			t.Fatal(err)
		}
	}
	return compile(t, &m, &v)
}

// templates are pod templates by name: those above, and all of the golden cases.
func templates(t testing.TB) map[string]*corev1.PodTemplateSpec {
	t.Helper()
	found := map[string]*corev1.PodTemplateSpec{}
	for name, text := range pods {
		template := &corev1.PodTemplateSpec{}
		if err := yaml.UnmarshalStrict([]byte(text), &template.Spec); err != nil {
			t.Fatal(err)
		}
		found[name] = template
	}
	for _, seconds := range []int64{0, 1, 5, 6, 7, 8, 10, 17, 24, 25, 26, 29, 30, 31, 35, 64, 65, 66, 125, 3604, 3605, 3666, 90000} {
		template := &corev1.PodTemplateSpec{Spec: corev1.PodSpec{TerminationGracePeriodSeconds: &seconds, Containers: []corev1.Container{{Name: "a", Image: "a"}}}}
		found[fmt.Sprintf("%d seconds", seconds)] = template
	}
	files, err := filepath.Glob("../../fn/pipeline/testdata/*/input.yaml")
	if err != nil || len(files) < 30 {
		t.Fatalf("found %d golden cases (%v)", len(files), err)
	}
	kinds := manifest.KindsOf(v1alpha1.Spec{})
	for _, file := range files {
		items, err := kio.LocalPackageReader{PackagePath: file, OmitReaderAnnotations: true}.Read()
		if err != nil {
			t.Fatal(err)
		}
		for i, item := range manifest.Flatten(items) {
			templates, _ := kinds.Templates(item)
			for _, at := range templates {
				template := &corev1.PodTemplateSpec{}
				if n := kyaml.NewRNode(node.At(item.YNode(), at.Path...)); n.IsNil() || node.Decode(n, template) != nil {
					continue // a case of what is refused
				}
				template.Name, template.Namespace = "", ""
				maps.DeleteFunc(template.Annotations, func(key, _ string) bool { return strings.HasPrefix(key, api.AnnotationPrefix) })
				found[fmt.Sprintf("%s %d %s", filepath.Base(filepath.Dir(file)), i, at.Name)] = template
			}
		}
	}
	for _, template := range found { // a policy sees pods after defaults
		template.Spec = *podspec.Admit(&template.Spec, nil)
	}
	return found
}

// injected is a template as package inject leaves it; nil where the render refuses it.
func injected(t testing.TB, spec string, template *corev1.PodTemplateSpec) *corev1.PodTemplateSpec {
	t.Helper()
	template = template.DeepCopy()
	if template.Annotations == nil {
		template.Annotations = map[string]string{}
	}
	maps.Copy(template.Annotations, overrides)
	w, r := declared(t, spec, template)
	if w == nil || r.Failed() {
		return nil
	}
	if err := inject.Apply(w.Template(), &w.Pod, w.Plan, &node.Shared{}, func(field string, err error) { t.Fatalf("%s: %v", field, err) }); err != nil {
		t.Fatal(err)
	}
	out := &corev1.PodTemplateSpec{}
	if err := node.Decode(kyaml.NewRNode(w.Template()), out); err != nil {
		t.Fatal(err)
	}
	for key := range overrides { // what a declaration says, its pods need not
		delete(out.Annotations, key)
	}
	delete(out.Annotations, api.OriginalAnnotation) // nobody takes an injection out of a pod
	return out
}

// TestPodsAreInjectedAsTemplates: what the policy makes of a pod is what package inject makes of it as a template, and
// the pod is then let in.
func TestPodsAreInjectedAsTemplates(t *testing.T) {
	all := templates(t)
	for name, spec := range configs {
		t.Run(name, func(t *testing.T) {
			p, compared := policiesOf(t, spec), 0
			for _, name := range slices.Sorted(maps.Keys(all)) {
				want := injected(t, spec, all[name])
				if want == nil {
					continue
				}
				compared++
				pod := &corev1.Pod{ObjectMeta: *all[name].ObjectMeta.DeepCopy(), Spec: *all[name].Spec.DeepCopy()}
				pod.Namespace, pod.Name = "shop", "pg-1"
				got, _ := p.mutated(t, pod)
				if diff := cmp.Diff(want.Spec, got.Spec, cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("%s: the spec differs (-template +pod):\n%s", name, diff)
				}
				if diff := cmp.Diff(want.Labels, got.Labels, cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("%s: labels differ (-template +pod):\n%s", name, diff)
				}
				if diff := cmp.Diff(meaning(t, want.Annotations), meaning(t, got.Annotations)); diff != "" {
					t.Errorf("%s: annotations differ (-template +pod):\n%s", name, diff)
				}
				messages, _ := p.refusals(t, got)
				for _, m := range messages { // some of the golden cases are refused as templates, too
					if strings.Contains(m, "another mutator") || strings.Contains(m, api.WorkloadAnnotation) || strings.Contains(m, "has more than") {
						t.Errorf("%s: what the policy has injected is taken for changed: %s", name, m)
					}
				}
				again, _ := p.mutated(t, got)
				if diff := cmp.Diff(got, again); diff != "" {
					t.Errorf("%s: a second invocation changes the pod:\n%s", name, diff)
				}
			}
			if compared < 60 {
				t.Errorf("compared %d pods; does this test still read the golden cases rightly?", compared)
			}
		})
	}
}

// meaning is the annotations with what the JSON in them says, whatever its order.
func meaning(t testing.TB, annotations map[string]string) map[string]any {
	t.Helper()
	out := map[string]any{}
	for key, text := range annotations {
		out[key] = text
		if key == api.WorkloadAnnotation {
			var value any
			if err := json.Unmarshal([]byte(text), &value); err != nil {
				t.Errorf("%s is no JSON: %v\n%s", key, err, text)
			}
			out[key] = value
		}
	}
	return out
}
