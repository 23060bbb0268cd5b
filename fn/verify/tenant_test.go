package verify_test

import (
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/verify"
)

// TestTenants: what somebody who may edit manifests after the render, or beside it, could do to get around the mesh.
// Each is a finding that names object and field.
func TestTenants(t *testing.T) {
	good := rendered(t)
	edit := func(old, with string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the rendered manifests hold no %q", old)
		}
		return strings.Replace(good, old, with, 1)
	}
	const (
		web   = "deployment prod/web: spec.template."
		proxy = "- name: meshless-proxy\n"
		init  = "- name: meshless-init\n"
		app   = "- name: app\n"
		mount = "- mountPath: /var/run/meshless\n"
		told  = "- name: MESHLESS_POD_NAMESPACE\n"
		pods  = "    spec:\n      containers:\n"
	)
	inProxy := func(text string) string { return edit(proxy, proxy+"        "+text+"\n") }
	inApp := func(text string) string { return edit(app, app+"        "+text+"\n") }
	beside := func(text string) string { return good + "---\n" + text }
	for name, test := range map[string]struct{ text, want string }{
		"image by annotation":             {edit("      annotations:\n        meshless.dev/workload", "      annotations:\n        meshless.dev/proxy-image: evil/x\n        meshless.dev/workload"), web + "metadata.annotations"},
		"image":                           {edit("image: ghcr.io/meshless-dev/proxy:v0.1.0", "image: evil/x"), "initContainers[1].image: takes "},
		"image of init":                   {edit("image: ghcr.io/meshless-dev/init:v0.1.0", "image: evil/x"), "initContainers[0].image: takes "},
		"hostNetwork":                     {edit(pods, "    spec:\n      hostNetwork: true\n      containers:\n"), web + "spec.hostNetwork: is true in an injected pod"},
		"hostNetwork by merge key":        {edit(pods, "    spec:\n      <<: {hostNetwork: true}\n      containers:\n"), web + "spec.hostNetwork: is true in an injected pod"},
		"plaintextPorts in the map":       {edit("web: deployment/web :80", "web: {answers: 'deployment/web :80', plaintextPorts: '80'}"), "data[mesh.yaml]: service web.prod.svc.cluster.local: plaintextPorts is \"80\", and must be \"\""},
		"clusterIPs in the map":           {edit("web: deployment/web :80", "web: {answers: 'deployment/web :80', clusterIPs: [10.96.0.9]}"), "clusterIPs is"},
		"target ports in the map":         {edit("web: deployment/web :80", "web: {answers: 'deployment/web :80', plaintextTargetPorts: '80'}"), "plaintextTargetPorts is"},
		"meshCIDRs in one map":            {edit("unknown: Passthrough\n", "unknown: Passthrough\n      meshCIDRs: [10.0.0.0/8]\n"), "outbound.meshCIDRs is"},
		"mode in one map":                 {edit("mode: Strict", "mode: Permissive"), "inbound.mode is"},
		"identity in a volume":            {edit("volumes:\n", "volumes:\n      - name: stolen\n        secret: {secretName: meshless-identity}\n"), web + "spec.volumes[0].secret: hands the Secret \"meshless-identity\" to the app"},
		"identity in a projection":        {edit("volumes:\n", "volumes:\n      - name: stolen\n        projected: {sources: [{secret: {name: meshless-identity}}]}\n"), web + "spec.volumes[0].projected.sources[0].secret: hands"},
		"identity in the environment":     {inApp("envFrom: [{secretRef: {name: meshless-identity}}]"), web + "spec.containers[0].envFrom[0].secretRef: hands"},
		"identity in a variable":          {inApp("env: [{name: A, valueFrom: {secretKeyRef: {name: meshless-identity, key: identity.txt}}}]"), web + "spec.containers[0].env[0].valueFrom.secretKeyRef: hands"},
		"identity in a plain pod":         {beside("apiVersion: v1\nkind: Pod\nmetadata: {name: thief, namespace: prod, annotations: {meshless.dev/inject: disabled}}\nspec: {containers: [{name: c, image: i, envFrom: [{secretRef: {name: meshless-identity}}]}]}\n"), "pod prod/thief: spec.containers[0].envFrom[0].secretRef: hands"},
		"privileged":                      {edit("privileged: false\n          readOnlyRootFilesystem: true\n          runAsGroup: 15000\n          runAsNonRoot: true", "privileged: true\n          readOnlyRootFilesystem: true\n          runAsGroup: 15000\n          runAsNonRoot: true"), web + "spec.initContainers[1].securityContext.privileged: is true, and must be false"},
		"another directory":               {inProxy("args: [--directory=/tmp]"), web + "spec.initContainers[1].args"},
		"resolv.conf":                     {edit(mount, "- {mountPath: /etc/resolv.conf, name: other}\n        "+mount), web + "spec.initContainers[1].volumeMounts"},
		"GOMEMLIMIT":                      {edit(told, "- {name: GOMEMLIMIT, value: 1GiB}\n        "+told), web + "spec.initContainers[1].env"},
		"GOTRACEBACK":                     {edit(told, "- {name: GOTRACEBACK, value: crash}\n        "+told), web + "spec.initContainers[1].env"},
		"writable files":                  {edit("name: meshless\n          readOnly: true", "name: meshless"), web + "spec.initContainers[1].volumeMounts[0].readOnly: is missing"},
		"optional bundle":                 {edit("name: meshless-bundle-uvdhs\n          - configMap", "name: meshless-bundle-uvdhs\n              optional: true\n          - configMap"), "configMap.optional: is true, and must not be there"},
		"no memory for the proxy":         {edit("memory: 256Mi", "memory: 1Ki"), web + "spec: meshless-proxy: its memory limit is 1Ki"},
		"no memory for init":              {edit("memory: 64Mi", "memory: 1Ki"), web + "spec: meshless-init: its memory limit is 1Ki"},
		"another command":                 {inProxy("command: [/bin/sh]"), web + "spec.initContainers[1].command"},
		"a shell by tty":                  {inProxy("tty: true"), web + "spec.initContainers[1].tty"},
		"init does not end":               {edit(init, init+"        restartPolicy: Always\n"), web + "spec.initContainers[0].restartPolicy"},
		"a bundle that cannot change":     {edit("kind: ConfigMap\nmetadata:\n  name: meshless-bundle-uvdhs", "kind: ConfigMap\nimmutable: true\nmetadata:\n  name: meshless-bundle-uvdhs"), "immutable: is no field that a render writes"},
		"JobSet":                          {beside("apiVersion: jobset.x-k8s.io/v1alpha2\nkind: JobSet\nmetadata: {name: a, namespace: prod}\nspec: {replicatedJobs: [{name: x, template: {spec: {template: {spec: {containers: [{name: c, image: i}]}}}}}]}\n"), "jobset prod/a: spec.replicatedJobs[0].template.spec.template.spec.containers: makes pods that stay outside of the mesh"},
		"Argo Workflow":                   {beside("apiVersion: argoproj.io/v1alpha1\nkind: Workflow\nmetadata: {name: a, namespace: prod}\nspec: {entrypoint: x, templates: [{name: x, container: {image: i}}]}\n"), "workflow prod/a: spec.templates[0].container: makes pods"},
		"Tekton TaskRun":                  {beside("apiVersion: tekton.dev/v1\nkind: TaskRun\nmetadata: {name: a, namespace: prod}\nspec: {taskSpec: {steps: [{name: x, image: i}]}}\n"), "taskrun prod/a: spec.taskSpec.steps: makes pods"},
		"OpenShift Template":              {beside("apiVersion: template.openshift.io/v1\nkind: Template\nmetadata: {name: a, namespace: prod}\nobjects: [{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: i}]}}]\n"), "template prod/a: objects[0].spec.containers: makes pods"},
		"local-config":                    {beside("apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: prod, annotations: {config.kubernetes.io/local-config: \"true\"}}\nspec: {containers: [{name: c, image: i}]}\n"), "pod prod/a: metadata.annotations[config.kubernetes.io/local-config]"},
		"a Service more":                  {beside("apiVersion: v1\nkind: Service\nmetadata: {name: other, namespace: prod}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n"), "secret prod/meshless-deployment-web: data[tls.crt]: names the Services web.prod, web.prod.svc"},
		"somebody's Endpoints":            {beside("apiVersion: v1\nkind: Endpoints\nmetadata: {name: web, namespace: prod}\n"), "endpoints prod/web: metadata.name: puts addresses behind Service \"web\""},
		"a Deployment by another version": {beside("apiVersion: apps/v1beta2\nkind: Deployment\nmetadata: {name: web, namespace: prod}\nspec: {template: {metadata: {annotations: {meshless.dev/inject: disabled}}, spec: {containers: [{name: c, image: i}]}}}\n"), "deployment prod/web: stands twice in the input"},
		"default namespace":               {edit("web: deployment/web :80", "other: deployment/web :80"), "service web.prod.svc.cluster.local is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &report.Report{}
			verify.Check(parse(t, test.text), verify.Options{Now: now, EveryWorkload: true, Kinds: manifest.KindsOf(v1alpha1.Spec{})}, r)
			var said strings.Builder
			if err := r.WriteText(&said); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(said.String(), test.want) {
				t.Errorf("said %q, want %q", said.String(), test.want)
			}
		})
	}
}
