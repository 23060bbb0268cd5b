package lint_test

import (
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/lint"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// services are what the pod under test may call: at 7000 the members at their own addresses, at 80 and 8080 web.
const services = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: prod}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 9090}, {name: other, port: 8080, targetPort: 9090}]}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: prod}
spec: {selector: {app: web}, ports: [{port: 8080, targetPort: 9090}]}
---
apiVersion: v1
kind: Service
metadata: {name: members, namespace: prod}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 7001, targetPort: 7000}]}
---
apiVersion: v1
kind: Service
metadata: {name: own, namespace: prod}
spec: {selector: {app: own}, ports: [{port: 6000}, {name: udp, protocol: UDP, port: 9090}]}
---
apiVersion: v1
kind: Service
metadata: {name: peers, namespace: prod}
spec: {clusterIP: None, selector: {app: own}, ports: [{port: 6001}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: prod, labels: {app: web}}
spec: {containers: [{name: web, image: web:1}]}
---
`

// said are the warnings of a workload prod/own, as "field: message", with this kind and pod. direct is what its plan
// says; nil where it has redirect rules.
func said(t *testing.T, kind, pod string, direct *podplan.Direct) (findings []string) {
	t.Helper()
	object := "apiVersion: v1\nkind: Pod\nmetadata: {name: own, namespace: prod, labels: {app: own}}\nspec: " + pod
	if kind != "Pod" {
		object = "apiVersion: apps/v1\nkind: " + kind + "\nmetadata: {name: own, namespace: prod}\n" +
			"spec: {selector: {matchLabels: {app: own}}, template: {metadata: {labels: {app: own}}, spec: " + pod + "}}"
	}
	items, err := (&kio.ByteReader{Reader: strings.NewReader(services + object), OmitReaderAnnotations: true}).Read()
	if err != nil {
		t.Fatal(err)
	}
	config, err := v1alpha1.Load(yaml.MustParse("{apiVersion: meshless.dev/v1alpha1, kind: MutualTLS, spec: {}}"))
	if err != nil {
		t.Fatal(err)
	}
	r := &report.Report{}
	m := manifest.Build(items, config.Spec, r)
	for _, w := range m.Workloads {
		if w.Name == "own" {
			w.Plan.Serve.Direct = direct
		}
	}
	lint.Surroundings(m, r)
	var text strings.Builder
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text.String()) {
		if _, finding, ok := strings.Cut(line, " prod/own: "); ok && !strings.Contains(line, "service prod") {
			findings = append(findings, strings.TrimSpace(finding))
		}
	}
	return findings
}

// TestNoRedirect: what passes beside the proxy of a pod without redirect rules is said where its manifest shows it, and
// is not said of a pod with rules.
func TestNoRedirect(t *testing.T) {
	const podIP = "env: [{name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]"
	direct, loopback := &podplan.Direct{AppAddress: podplan.AppPod}, &podplan.Direct{AppAddress: podplan.AppLoopback}
	for _, test := range []struct {
		name, kind, pod string
		direct          *podplan.Direct
		want            []string // what each finding holds, in order
	}{
		{"a URL", "Deployment", "{containers: [{name: c, image: c:1, env: [{name: DB, value: 'postgres://u:p@10.1.2.3/db'}]}]}", direct,
			[]string{"spec.template.spec.containers[0].env[0].value: names 10.1.2.3 by address"}},
		{"an address with a port", "Pod", "{containers: [{name: c, image: c:1, args: [--peers, 'web:80,[fd00::1]:90,10.0.0.1:1']}]}", direct,
			[]string{"spec.containers[0].args[1]: names [fd00::1]:90 and 10.0.0.1:1 by address"}},
		{"a DSN", "Pod", "{containers: [{name: c, image: c:1, command: [c, '--db=u:p@tcp(192.0.2.1:3306)/db']}]}", direct,
			[]string{"spec.containers[0].command[1]: names 192.0.2.1:3306 by address"}},
		{"an init container", "Pod", "{initContainers: [{name: i, image: i:1, args: ['http://10.0.0.1:80/']}], containers: [{name: c, image: c:1}]}", direct,
			[]string{"spec.initContainers[0].args[0]: names 10.0.0.1:80 by address"}},
		{"no other pod's address", "Pod", "{containers: [{name: c, image: c:1, args: ['0.0.0.0:8081', 'http://127.0.0.1:80', '[::1]:90', '169.254.169.254:80', 10.0.0.0/8, v1.2.3.4, 'web:80', ':80']}]}", direct, nil},
		{"with rules", "Pod", "{hostAliases: [{ip: 10.0.0.1, hostnames: [db]}], containers: [{name: c, image: c:1, args: ['10.0.0.1:80'], ports: [{containerPort: 8080}], " + podIP + "}]}", nil, nil},

		{"the pod's address", "Pod", "{containers: [{name: c, image: c:1, " + podIP + "}]}", direct,
			[]string{"spec.containers[0].env[0].valueFrom.fieldRef: tells container \"c\" the address of its pod"}},
		{"the pod's address, announced", "Pod", "{containers: [{name: c, image: c:1, args: ['--advertise=$(POD_IP):1'], " + podIP + "}]}", direct,
			[]string{"spec.containers[0].env[0].valueFrom.fieldRef: tells"}},
		{"the pod's address, to listen on", "Pod", "{containers: [{name: c, image: c:1, args: ['--listen=$(POD_IP):1'], " + podIP + "}]}", direct, nil},
		{"the pod's address, to bind to", "Pod", "{containers: [{name: c, image: c:1, args: [--bind, '$(POD_IP)'], " + podIP + "}]}", direct, nil},
		{"the pod's addresses", "Pod", "{containers: [{name: c, image: c:1, env: [{name: IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}]}]}", direct,
			[]string{"tells container"}},

		{"datagrams", "Pod", "{containers: [{name: c, image: c:1, ports: [{containerPort: 53, protocol: UDP}, {containerPort: 54, protocol: SCTP}, {containerPort: 9090, protocol: UDP}]}]}", direct,
			[]string{"ports[0].protocol: port 53 of container \"c\" is UDP", "ports[1].protocol: port 54 of container \"c\" is SCTP"}},

		{"a port of other Services", "Pod", "{containers: [{name: c, image: c:1, ports: [{containerPort: 8080}]}]}", direct,
			[]string{"containers[0].ports: container \"c\" listens on ports of Services: 8080, on which others call api.prod and web.prod"}},
		{"a port of other pods behind a headless Service", "Pod", "{containers: [{name: c, image: c:1, ports: [{containerPort: 7000}]}]}", direct,
			[]string{"7000, on which others call members.prod"}},
		{"a port to which others' Services lead", "Pod", "{containers: [{name: c, image: c:1, ports: [{containerPort: 9090}, {containerPort: 80, protocol: UDP}]}]}", direct,
			[]string{"is UDP"}},
		{"its own Services", "Deployment", "{containers: [{name: c, image: c:1, ports: [{containerPort: 6000}, {containerPort: 6001}]}]}", direct, nil},
		{"its peers", "StatefulSet", "{containers: [{name: c, image: c:1, ports: [{containerPort: 6000}, {containerPort: 6001}]}]}", direct,
			[]string{"containers[0].ports: container \"c\" listens on ports of Services: 6001, on which others call peers.prod"}},
		{"a port of others, on loopback", "Pod", "{containers: [{name: c, image: c:1, ports: [{containerPort: 8080}]}]}", loopback, nil},
		{"a port of others, at the pod's address", "Pod", "{containers: [{name: c, image: c:1, args: ['--listen=$(POD_IP):8080'], ports: [{containerPort: 8080}], " + podIP + "}]}", direct, nil},

		{"hostAliases", "Pod", "{hostAliases: [{ip: 127.0.0.1, hostnames: [me]}, {ip: 10.0.0.1, hostnames: [db, cache]}], containers: [{name: c, image: c:1}]}", direct,
			[]string{"spec.hostAliases[1]: gives db and cache an address that the proxy has not answered"}},
		{"the node's DNS", "Pod", "{dnsPolicy: Default, containers: [{name: c, image: c:1}]}", direct, []string{"spec.dnsPolicy: Default has the proxy ask the DNS servers of the node"}},
		{"its own DNS", "Pod", "{dnsPolicy: None, dnsConfig: {nameservers: [10.0.0.53]}, containers: [{name: c, image: c:1}]}", direct, []string{"spec.dnsPolicy: None has the proxy ask the servers of dnsConfig"}},
		{"further DNS", "Pod", "{dnsConfig: {nameservers: [10.0.0.53]}, containers: [{name: c, image: c:1}]}", direct, []string{"spec.dnsConfig.nameservers: has the proxy ask further DNS servers"}},

		{"gVisor, with rules", "Pod", "{runtimeClassName: gvisor, containers: [{name: c, image: c:1}]}", nil, []string{"the pod does not start. Try it, and say that it works with the annotation meshless.dev/inject: enabled, or do without rules by the annotation meshless.dev/redirect: None"}},
		{"gVisor, without", "Pod", "{runtimeClassName: gvisor, containers: [{name: c, image: c:1}]}", direct, []string{"meshless was not tried. Try it, and say that it works with the annotation meshless.dev/inject: enabled; or leave"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := said(t, test.kind, test.pod, test.direct)
			if !slices.EqualFunc(got, test.want, strings.Contains) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}
