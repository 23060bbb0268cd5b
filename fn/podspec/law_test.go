package podspec_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/inject"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/podspec"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// choices makes decisions of the bytes of a fuzzer, and zeros when they are used up.
type choices struct{ data []byte }

func (c *choices) below(n int) int {
	if len(c.data) == 0 {
		return 0
	}
	b := c.data[0]
	c.data = c.data[1:]
	return int(b) % n
}

func (c *choices) yes() bool { return c.below(2) == 1 }

func pick[T any](c *choices, from ...T) T { return from[c.below(len(from))] }

// podTemplate is an app with probes of every kind, and a grace period.
func podTemplate(c *choices) string {
	grace := ""
	if c.yes() {
		grace = fmt.Sprintf("  terminationGracePeriodSeconds: %d\n", c.below(256))
	}
	probe := pick(c, "", "    livenessProbe: {httpGet: {path: '/a?b=<c>', port: web, httpHeaders: [{name: A, value: b}]}, timeoutSeconds: 3}\n",
		"    startupProbe: {grpc: {port: 80, service: s}}\n", "    lifecycle: {preStop: {tcpSocket: {port: 9000}}}\n")
	mounts := pick(c, "", "    volumeMounts:\n    - {name: data, mountPath: /data}\n", "    volumeMounts:\n", "    volumeMounts: ~ # none\n")
	inits := pick(c, "", "  initContainers:\n  - {name: setup, image: i}\n", "  initContainers:\n  - {name: side, image: i, restartPolicy: Always, ports: [{containerPort: 7000}, {containerPort: 53, protocol: UDP}]}\n")
	security := pick(c, "", "  securityContext: {runAsNonRoot: true}\n", "  securityContext:\n", "  securityContext:\n    sysctls:\n    - {name: net.ipv4.tcp_syncookies, value: \"1\"}\n",
		"  securityContext:\n    sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: '0'}]\n", "  securityContext: {runAsUser: 1000, sysctls: null}\n")
	return "metadata:\n  labels: {app: web}\nspec:\n" + grace + inits + "  containers:\n  - name: app\n    image: i\n    ports: [{name: web, containerPort: 8080}]\n" + mounts + probe +
		"  - name: other\n    image: i\n    readinessProbe: {tcpSocket: {port: 81}}\n" + security
}

// plan is any plan that a config and annotations can ask for, before the pod decides the rest.
func plan(c *choices) *podplan.Plan {
	ports := func() netset.Ports {
		return pick(c, nil, netset.Ports{{First: 22, Last: 22}}, netset.Ports{{First: 80, Last: 90}, {First: 9000, Last: 9000}})
	}
	resources := func() *podplan.Resources {
		return pick(c, nil, &podplan.Resources{Requests: map[string]string{"cpu": "10m", "memory": "32Mi"}, Limits: map[string]string{"memory": "256Mi"}},
			&podplan.Resources{Limits: map[string]string{"memory": "1Gi", "cpu": "2"}})
	}
	p := &podplan.Plan{
		Package:  pick(c, "k7f3q", "a"),
		Workload: podplan.Workload{SPIFFEID: "spiffe://cluster.local/ns/prod/deployment/web", PermissivePorts: ports(), TLSPassthroughPorts: ports(), StrictPorts: ports(), ProxyProtocolPorts: ports()},
		Redirect: podplan.InitArgs{
			ProxyUID: pick(c, 15000, 1, 2147483647), ExcludeInboundPorts: ports(), ExcludeOutboundPorts: ports(),
			ExcludeInboundInterfaces: pick(c, nil, netset.Interfaces{"net1"}), ExcludeOutboundInterfaces: pick(c, nil, netset.Interfaces{"docker0", "tun0"}),
			ExcludeOutboundCIDRs: pick(c, nil, []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/8")}),
			ExcludeOutboundUIDs:  pick(c, nil, netset.UIDs{1001, 1002}),
			Backend:              pick(c, podplan.BackendAuto, podplan.BackendNFTables, podplan.BackendIPTables),
			ClientCIDRs:          pick(c, clientaddr.Ranges{}, clientaddr.Default, clientaddr.Ranges{V4: netip.MustParsePrefix("100.64.0.0/16")}),
		},
		Serve:   podplan.ProxyArgs{Directory: api.Directory, LogLevel: pick(c, "info", "debug", "warn", "error"), IdleTimeout: pick(c, 0, time.Minute, 8*time.Hour), Pprof: c.yes(), Records: pick(c, podplan.RecordsOwn, podplan.RecordsStandard)},
		Native:  c.yes(),
		Init:    podplan.Container{Image: pick(c, api.InitImage, "r.example/init@sha256:0"), PullPolicy: pick(c, "", "Never"), Resources: resources()},
		Proxy:   podplan.Container{Image: pick(c, api.ProxyImage, "r.example/proxy:1"), PullPolicy: pick(c, "", "Always"), Resources: resources()},
		FIPS140: c.yes(),
		Files: podplan.Files{LeafSecret: pick(c, "meshless-deployment-web", "mine"), KeyFile: api.PlainKeyFile,
			Bundle: pick(c, podplan.Source{}, podplan.Source{Name: api.BundleName("k7f3q"), Key: api.BundleFile}, podplan.Source{Name: "trust", Key: "ca.pem"}),
			Mesh:   pick(c, "", api.HookMeshPrefix+"job-a")},
	}
	p.Serve.ClientCIDRs = p.Redirect.ClientCIDRs
	if p.Redirect.Backend != podplan.BackendIPTables && len(p.Redirect.ExcludeInboundInterfaces)+len(p.Redirect.ExcludeInboundPorts) == 0 {
		p.Redirect.TransparentPorts = ports()
		p.Workload.TransparentPorts = p.Redirect.TransparentPorts
	}
	if c.yes() {
		p.Serve.Direct = &podplan.Direct{Ports: ports(), AppAddress: pick(c, podplan.AppPod, podplan.AppLoopback)}
		p.Serve.ClientCIDRs, p.Workload.TransparentPorts = clientaddr.Ranges{}, nil
		p.Redirect = podplan.InitArgs{ProxyUID: p.Redirect.ProxyUID, ExcludeInboundPorts: p.Redirect.ExcludeInboundPorts, Backend: podplan.BackendAuto}
	}
	if c.yes() {
		p.Files.KeyFile, p.Files.Identity = api.SealedKeyFile, podplan.Source{Name: "meshless-identity", Key: pick(c, "identity.txt", "age")}
	}
	return p
}

// law writes a plan into a pod template and reads it back.
func law(t *testing.T, data []byte) {
	t.Helper()
	c := &choices{data}
	text := podTemplate(c)
	template := yaml.MustParse(text)
	var pod corev1.PodTemplateSpec
	if err := node.Decode(template, &pod); err != nil {
		t.Fatal(err)
	}
	want := plan(c)
	refuse := func(field string, err error) { t.Fatalf("%s: %v", field, err) }
	podspec.Derive(want, &pod.Spec, refuse)
	if err := inject.Apply(template.YNode(), &pod, want, &node.Shared{}, refuse); err != nil {
		t.Fatal(err)
	}
	var injected corev1.PodTemplateSpec
	if err := node.Decode(yaml.MustParse(template.MustString()), &injected); err != nil {
		t.Fatal(err)
	}
	got, err := podspec.Parse(&injected)
	if err != nil {
		t.Fatalf("%v\n%s", err, template.MustString())
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("what is read is not what was written (-want +got):\n%s\n%s", diff, template.MustString())
	}
	if err := inject.Strip(template, nil); err != nil {
		t.Fatal(err)
	}
	if left := template.MustString(); left != yaml.MustParse(text).MustString() {
		t.Errorf("un-injection leaves\n%s", left)
	}
}

// TestParseWrite: parse of what was written is the plan, for thousands of plans. The seed is fixed, since a fuzzer
// finds the rest.
func TestParseWrite(t *testing.T) {
	random := rand.New(rand.NewPCG(13, 0))
	for range 1000 {
		data := make([]byte, 56)
		for i := range data {
			data[i] = byte(random.UintN(256))
		}
		if law(t, data); t.Failed() {
			t.Fatalf("choices %v", data)
		}
	}
}

func FuzzParseWrite(f *testing.F) {
	f.Add([]byte{})
	f.Add(slices.Repeat([]byte{1}, 56))
	f.Add(slices.Repeat([]byte{2}, 56))
	f.Fuzz(law)
}

// FuzzParse: a pod template that is anything is read as a plan, or refused with a field and a reason.
func FuzzParse(f *testing.F) {
	template := yaml.MustParse(podTemplate(&choices{}))
	var pod corev1.PodTemplateSpec
	if err := node.Decode(template, &pod); err != nil {
		f.Fatal(err)
	}
	p := plan(&choices{slices.Repeat([]byte{1}, 56)})
	if err := inject.Apply(template.YNode(), &pod, p, &node.Shared{}, func(field string, err error) { f.Fatal(field, err) }); err != nil {
		f.Fatal(err)
	}
	f.Add(template.MustString())
	f.Add("spec: {initContainers: [{name: meshless-init}, {name: meshless-proxy}]}")
	f.Fuzz(func(t *testing.T, text string) {
		n, err := yaml.Parse(text)
		if err != nil || node.CheckItem(n) != nil {
			return
		}
		var pod corev1.PodTemplateSpec
		if node.Decode(n, &pod) != nil {
			return
		}
		if p, err := podspec.Parse(&pod); err == nil {
			if p.ID().String() == "" || p.Files.LeafSecret == "" {
				t.Errorf("%q is read as %+v", text, p)
			}
		} else if err.Error() == "" {
			t.Error("refused without a reason")
		}
	})
}
