package manifest_test

import (
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
)

// workload is a workload of namespace a with the given labels, a flow mapping.
func workload(kind, name, labels string, more ...string) string {
	apiVersion := map[string]string{"Pod": "v1", "Job": "batch/v1"}[kind]
	if apiVersion == "" {
		apiVersion = "apps/v1"
	}
	metadata := fmt.Sprintf("{labels: {%s}%s}", labels, strings.Join(more, ""))
	return fmt.Sprintf("---\n{apiVersion: %s, kind: %s, metadata: {name: %s, namespace: a}, spec: {template: {metadata: %s, spec: {containers: [{name: c, image: i}]}}}}\n", apiVersion, kind, name, metadata)
}

const outOfMesh = ", annotations: {meshless.dev/inject: disabled}"

// service is a Service of namespace a; more goes into its metadata.
func service(name, spec string, more ...string) string {
	return fmt.Sprintf("---\n{apiVersion: v1, kind: Service, metadata: {name: %s, namespace: a%s}, spec: {%s}}\n", name, strings.Join(more, ""), spec)
}

func build(t *testing.T, text, outbound string) (*manifest.Model, *report.Report) {
	t.Helper()
	items, err := (&kio.ByteReader{Reader: strings.NewReader(text), OmitReaderAnnotations: true}).Read()
	if err != nil {
		t.Fatal(err)
	}
	config, err := v1alpha1.Load(yaml.MustParse("{apiVersion: meshless.dev/v1alpha1, kind: MutualTLS, metadata: {name: c}, spec: {sealing: {recipients: [x]}, certificates: {ca: {recipients: [x]}}, outbound: {" + outbound + "}}}"))
	if err != nil {
		t.Fatal(err)
	}
	r := &report.Report{}
	return manifest.Build(items, config.Spec, r), r
}

// TestBehind: who is behind a Service, whose selector names labels that pods get at run time, or that has none.
func TestBehind(t *testing.T) {
	redis := workload("StatefulSet", "redis-ha-server", "app: redis-ha, release: argocd") + workload("Deployment", "redis-ha-haproxy", "app: redis-ha-haproxy")
	for name, test := range map[string]struct {
		text, outbound string
		want           string // the Service s: identities, outside, or unknown
		finds          string
	}{
		"the template's labels":     {workload("Deployment", "w", "app: w") + service("s", "selector: {app: w}"), "", "deployment/w", ""},
		"Argo CD's HA Redis":        {redis + service("s", "selector: {app: redis-ha, release: argocd, statefulset.kubernetes.io/pod-name: redis-ha-server-2}"), "", "statefulset/redis-ha-server", ""},
		"the pod's name alone":      {redis + service("s", "selector: {statefulset.kubernetes.io/pod-name: redis-ha-server-0}"), "", "statefulset/redis-ha-server", ""},
		"another set's pod":         {redis + service("s", "selector: {app: redis-ha, statefulset.kubernetes.io/pod-name: other-0}"), "", "unknown", "selects no workload of the input, and statefulset a/redis-ha-server has some of its labels"},
		"no ordinal":                {redis + service("s", "selector: {app: redis-ha, statefulset.kubernetes.io/pod-name: redis-ha-server-x}"), "", "unknown", "has some of its labels"},
		"a set named by a prefix":   {workload("StatefulSet", "a-b", "app: x") + workload("StatefulSet", "a", "app: x") + service("s", "selector: {app: x, statefulset.kubernetes.io/pod-name: a-b-0}"), "", "statefulset/a-b", ""},
		"pod-name of a Deployment":  {workload("Deployment", "w", "app: w") + service("s", "selector: {app: w, statefulset.kubernetes.io/pod-name: w-0}"), "", "unknown", "has some of its labels"},
		"the index":                 {workload("StatefulSet", "pg", "app: pg") + service("s", "selector: {app: pg, apps.kubernetes.io/pod-index: '0'}"), "", "statefulset/pg", ""},
		"the index of a Deployment": {workload("Deployment", "pg", "app: pg") + service("s", "selector: {app: pg, apps.kubernetes.io/pod-index: '0'}"), "", "unknown", "has some of its labels"},
		"the index alone":           {workload("StatefulSet", "pg", "app: pg") + service("s", "selector: {apps.kubernetes.io/pod-index: '0'}"), "", "unknown", "as where an operator makes the pods"},
		"a hash":                    {workload("Deployment", "w", "app: w") + service("s", "selector: {app: w, pod-template-hash: abc}"), "", "deployment/w", ""},
		"a Job's name":              {workload("Job", "j", "a: b") + service("s", "selector: {job-name: j}"), "", "job/j", ""},
		"an index of a Job":         {workload("Job", "j", "a: b") + service("s", "selector: {batch.kubernetes.io/job-name: j, batch.kubernetes.io/job-completion-index: '0'}"), "", "job/j", ""},
		"Patroni's leader": {workload("StatefulSet", "pg", "application: patroni, cluster-name: pg") + service("s", "selector: {application: patroni, cluster-name: pg, role: primary}"), "", "statefulset/pg",
			"info: service a/s: spec.selector: is taken to select statefulset a/pg: its pods have the other labels, and no template of the namespace carries role"},
		"Vault's":                     {workload("StatefulSet", "vault", "app: vault") + service("s", "selector: {app: vault, vault-active: 'true'}"), "", "statefulset/vault", "is taken to select"},
		"another carries the role":    {workload("StatefulSet", "pg", "app: pg") + workload("Deployment", "x", "app: x, role: primary") + service("s", "selector: {app: pg, role: primary}"), "", "unknown", "has some of its labels"},
		"the role points at another":  {workload("StatefulSet", "pg", "app: pg") + workload("Deployment", "x", "app: pg, role: primary") + service("s", "selector: {app: pg, role: primary}"), "", "deployment/x", ""},
		"another value of the role":   {workload("StatefulSet", "pg", "app: pg") + workload("Deployment", "x", "app: x, role: web") + service("s", "selector: {app: pg, role: primary}"), "", "statefulset/pg", "is taken to select"},
		"the template says otherwise": {workload("StatefulSet", "pg", "app: pg, role: standby") + service("s", "selector: {app: pg, role: primary}"), "", "unknown", "has some of its labels"},
		"two may be meant":            {workload("StatefulSet", "pg-a", "app: pg") + workload("StatefulSet", "pg-b", "app: pg") + service("s", "selector: {app: pg, role: primary}"), "", "statefulset/pg-a statefulset/pg-b", "is taken to select statefulset a/pg-a and statefulset a/pg-b"},
		"one of two is outside":       {workload("StatefulSet", "pg-a", "app: pg") + workload("StatefulSet", "pg-b", "app: pg", outOfMesh) + service("s", "selector: {app: pg, role: primary}"), "", "unknown", "has some of its labels"},
		"guessed, and outside":        {workload("Deployment", "w", "app: w") + workload("StatefulSet", "pg", "app: pg", outOfMesh) + service("s", "selector: {app: pg, role: primary}"), "", "outside", ""},
		"outside":                     {workload("Deployment", "w", "app: w") + workload("Deployment", "o", "app: o", outOfMesh) + service("s", "selector: {app: o}"), "", "outside", ""},
		"no namespace of the mesh":    {workload("Deployment", "o", "app: o", outOfMesh) + service("s", "selector: {app: o}") + service("t", "selector: {app: t}"), "", "unknown", ""},
		"both":                        {workload("Deployment", "w", "app: w") + workload("Deployment", "o", "app: w", outOfMesh) + service("s", "selector: {app: w}"), "", "deployment/w", "error: service a/s: spec.selector: selects deployment a/w, which is in the mesh, and deployment a/o, which is not"},
		"an operator's":               {workload("Deployment", "w", "app: w") + service("s", "selector: {longhorn.io/component: instance-manager}"), "", "unknown", "warning: service a/s: spec.selector: selects no workload of the input, as where an operator makes the pods"},
		"an app's other part":         {workload("Deployment", "w", "part: app, name: w, role: w") + service("s", "selector: {part: app, name: s, role: s}"), "", "unknown", "warning: service a/s: spec.selector: selects no workload of the input, as where an operator makes the pods"},
		"an operator's, said":         {workload("Deployment", "w", "app: w") + service("s", "selector: {longhorn.io/component: instance-manager}"), "plaintextServices: [s.a]", "outside", ""},
		"guessed, said":               {workload("StatefulSet", "pg", "app: pg") + service("s", "selector: {app: pg, role: primary}"), "plaintextServices: [s.a]", "outside", ""},
		"in the mesh, said":           {workload("Deployment", "w", "app: w") + service("s", "selector: {app: w}"), "plaintextServices: [x.b, s.a]", "outside", "error: mutualtls: spec.outbound.plaintextServices[1]: s.a leads to workloads of the mesh"},
		"no selector":                 {workload("Deployment", "w", "app: w") + service("s", "ports: [{port: 80}]"), "", "unknown", "warning: service a/s: spec.selector: is missing, so nobody knows who is behind it"},
		"no selector, named":          {workload("StatefulSet", "pg", "app: pg") + service("s", "ports: [{port: 80}]", ", annotations: {meshless.dev/workloads: 'StatefulSet/pg'}"), "", "statefulset/pg", ""},
		"two are named":               {workload("StatefulSet", "pg", "app: pg") + workload("Deployment", "w", "app: w") + service("s", "ports: [{port: 80}]", ", annotations: {meshless.dev/workloads: 'deployment/w, statefulset/pg'}"), "", "deployment/w statefulset/pg", ""},
		"nobody is named":             {workload("StatefulSet", "pg", "app: pg") + service("s", "ports: [{port: 80}]", ", annotations: {meshless.dev/workloads: statefulset/gp}"), "", "unknown", `metadata.annotations[meshless.dev/workloads]: "statefulset/gp" is no workload of namespace "a"; want <kind>/<name> of statefulset/pg, separated by commas`},
		"a mistyped annotation":       {workload("Deployment", "w", "app: w") + service("s", "selector: {app: w}", ", annotations: {meshless.dev/workload: deployment/w}"), "", "deployment/w", "error: service a/s: metadata.annotations[meshless.dev/workload]: has no effect on a Service, which takes meshless.dev/workloads and meshless.dev/plaintext-ports"},
		"an outsider is named":        {workload("Deployment", "w", "app: w") + workload("Deployment", "o", "app: o", outOfMesh) + service("s", "ports: [{port: 80}]", ", annotations: {meshless.dev/workloads: deployment/o}"), "", "outside", ""},
		"both are named":              {workload("Deployment", "w", "app: w") + workload("Deployment", "o", "app: o", outOfMesh) + service("s", "ports: [{port: 80}]", ", annotations: {meshless.dev/workloads: 'deployment/o,deployment/w'}"), "", "deployment/w", "error: service a/s"},
		"another name":                {workload("Deployment", "w", "app: w") + service("t", "selector: {app: w}") + service("s", "type: ExternalName, externalName: t.a.svc.cluster.local"), "", "unknown", ""},
		"another name, annotated":     {workload("Deployment", "w", "app: w") + service("s", "type: ExternalName, externalName: t.a.svc", ", annotations: {meshless.dev/workloads: deployment/w}"), "", "unknown", "has no effect on a Service of type ExternalName"},
		"Endpoints":                   {workload("Deployment", "w", "app: w") + "---\n{apiVersion: v1, kind: Endpoints, metadata: {name: x, namespace: a}}\n", "", "unknown", `warning: endpoints a/x: metadata.name: puts addresses behind Service "x"`},
		"an EndpointSlice beside a selector": {workload("Deployment", "w", "app: w") + service("s", "selector: {app: w}") + "---\n{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x, namespace: a, labels: {kubernetes.io/service-name: s}}}\n",
			"", "deployment/w", `warning: endpointslice a/x: metadata.labels[kubernetes.io/service-name]: puts addresses behind Service "s"`},
		"Endpoints of what is said": {workload("Deployment", "w", "app: w") + "---\n{apiVersion: v1, kind: Endpoints, metadata: {name: x, namespace: a}}\n", "plaintextServices: [x.a]", "unknown", ""},
		"ours":                      {workload("Deployment", "w", "app: w") + service("meshless-alias-x", "type: ExternalName, externalName: x.a.svc"), "", "unknown", "is a name as meshless gives it to Services of its own"},
		"ours by label":             {workload("Deployment", "w", "app: w, meshless.dev/package: x"), "", "unknown", "metadata.labels[meshless.dev/package]: is written by a render into pods of the mesh"},
	} {
		t.Run(name, func(t *testing.T) {
			m, r := build(t, test.text, test.outbound)
			got := "unknown"
			for _, s := range m.Services {
				if s.Name != "s" {
					continue
				}
				var ids []string
				for _, w := range s.Workloads {
					ids = append(ids, strings.TrimPrefix(w.ID.Path(), "/ns/a/"))
					if names := w.DNSNames(); !strings.Contains(strings.Join(names, " "), "s.a.svc.cluster.local") {
						t.Errorf("the certificate of %s names %v", w.ID, names)
					}
				}
				got = strings.Join(ids, " ")
			}
			if strings.Contains(strings.Join(m.OutsideServices, " "), "s.a") && got == "unknown" {
				got = "outside"
			}
			var said strings.Builder
			if err := r.WriteText(&said); err != nil {
				t.Fatal(err)
			}
			if got != test.want {
				t.Errorf("leads to %q, want %q", got, test.want)
			}
			if strings.Count(said.String(), "\n") > 1 {
				t.Errorf("said more than one thing: %s", said.String())
			}
			if (test.finds == "") != (said.String() == "") || !strings.Contains(said.String(), test.finds) {
				t.Errorf("said %q, want %q", said.String(), test.finds)
			}
		})
	}
}
