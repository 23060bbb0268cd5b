package lint_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/lint"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
)

// manifests are a web server behind an Ingress, which names its namespace where the Service does not.
const manifests = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: web:1, ports: [{name: http, containerPort: 8080, hostPort: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: dns, port: 53, protocol: UDP}, {name: http, port: 80, targetPort: http}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: front, namespace: default}
spec: {defaultBackend: {service: {name: web, port: {name: http}}}}
`

// TestFields: every finding has the object and the whole path of the field.
func TestFields(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"Ingress":        {"", "", "warning: service web: spec.ports[1]: port 80 is a backend of ingress default/front"},
		"NodePort":       {"spec: {selector", "spec: {type: NodePort, selector", "warning: service web: spec.ports[1]: port 80 is of type NodePort"},
		"hostPort":       {"", "", "warning: deployment web: spec.template.spec.containers[0].ports[0].hostPort: hostPort 80"},
		"UDP":            {"", "", "warning: service web: spec.ports[0].protocol: port 53 is UDP, which passes beside the proxy"},
		"gVisor":         {"spec:\n      containers", "spec:\n      runtimeClassName: gvisor\n      containers", "warning: deployment web: spec.template.spec.runtimeClassName: is gvisor: "},
		"dnsPolicy":      {"spec:\n      containers", "spec:\n      dnsPolicy: None\n      containers", "warning: deployment web: spec.template.spec.dnsPolicy: None asks"},
		"other mesh":     {"{labels: {app: web}}", "{labels: {app: web, sidecar.istio.io/inject: 'true'}}", "error: deployment web: spec.template.metadata.labels[sidecar.istio.io/inject]: "},
		"foreign":        {"name: web, image", "name: istio-proxy, image", "error: deployment web: spec.template.spec.containers[0].name: "},
		"NET_ADMIN":      {"image: web:1", "image: web:1, securityContext: {capabilities: {add: [NET_ADMIN]}}", "warning: deployment web: spec.template.spec.containers[0].securityContext: container"},
		"root":           {"image: web:1", "image: web:1, securityContext: {runAsUser: 0}", `warning: deployment web: spec.template.spec.containers[0].securityContext: container "web" may have SETUID, NET_RAW and CHOWN with FOWNER`},
		"the proxy's":    {"image: web:1", "image: web:1, securityContext: {runAsUser: 15000}", "error: deployment web: spec.template.spec.containers[0].securityContext.runAsUser: "},
		"reserved":       {"containerPort: 8080", "containerPort: 15001", "error: deployment web: spec.template.spec.containers[0].ports[0].containerPort: "},
		"ephemeral":      {"spec:\n      containers", "spec:\n      ephemeralContainers: [{name: debug, image: debug:1}]\n      containers", "error: deployment web: spec.template.spec.ephemeralContainers: are in no template"},
		"Windows":        {"spec:\n      containers", "spec:\n      os: {name: windows}\n      containers", "warning: deployment web: spec.template.spec.os.name: "},
		"shared process": {"spec:\n      containers", "spec:\n      shareProcessNamespace: true\n      securityContext: {runAsUser: 0}\n      containers", "warning: deployment web: spec.template.spec.shareProcessNamespace: "},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(manifests, c.old, c.new, 1)
			if text == manifests && c.old != "" {
				t.Fatalf("%q is not in the manifests", c.old)
			}
			items, err := (&kio.ByteReader{Reader: strings.NewReader(text), OmitReaderAnnotations: true}).Read()
			if err != nil {
				t.Fatal(err)
			}
			config, err := v1alpha1.Load(yaml.MustParse("{apiVersion: meshless.dev/v1alpha1, kind: MutualTLS}"))
			if err != nil {
				t.Fatal(err)
			}
			r := &report.Report{}
			lint.Check(manifest.Build(items, config.Spec, r), r)
			var said strings.Builder
			if err := r.WriteText(&said); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(said.String(), c.want) {
				t.Errorf("got %swant %s", said.String(), c.want)
			}
		})
	}
}
