package manifest_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// FuzzServicePorts: what a manifest says of a port is what the mesh map says, or an error names the field. Ports are 32
// bits wide in the API, so nothing may be cut.
func FuzzServicePorts(f *testing.F) {
	f.Add(int32(80), int32(8080), int32(0), "")
	f.Add(int32(65616), int32(0), int32(0), "")
	f.Add(int32(80), int32(65616), int32(0), "")
	f.Add(int32(80), int32(0), int32(96000), "")
	f.Add(int32(-65456), int32(-1), int32(-1), "http")
	f.Add(int32(80), int32(0), int32(0), "65616")
	f.Fuzz(func(t *testing.T, port, target, node int32, name string) {
		p := corev1.ServicePort{Port: port, TargetPort: intstr.FromInt32(target), NodePort: node}
		if name != "" {
			p.TargetPort = intstr.FromString(name)
		}
		w := &manifest.Workload{Kind: "Deployment", Name: "web", Namespace: "prod", Plan: &podplan.Plan{}}
		w.Pod.Labels = map[string]string{"app": "web"}
		s := corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "prod"},
			Spec: corev1.ServiceSpec{Selector: w.Pod.Labels, Ports: []corev1.ServicePort{p}}}
		r := &report.Report{}
		said := manifest.FoldServices([]*manifest.Workload{w}, nil, []corev1.Service{s}, "cluster.local", nil, r).Services("prod")
		valid := func(n int32) bool { return 1 <= n && n <= 65535 }
		good := valid(port) && (node == 0 || valid(node)) && (name != "" || target == 0 || valid(target))
		switch {
		case !good && !r.Failed():
			t.Errorf("%+v passes, as %+v", p, said)
		case r.Failed() && !strings.Contains(strings.Join(r.Errors(), "\n"), "service prod/web: spec.ports[0]."):
			t.Errorf("%+v: %v", p, r.Errors())
		case !r.Failed() && (len(said) != 1 || said[0].Ports.String() != netset.PortsOf(uint16(port)).String()):
			t.Errorf("%+v is said as %+v", p, said)
		case !r.Failed() && name == "" && target != 0 && int32(manifest.TargetPort(p, w)) != target:
			t.Errorf("%+v leads to %d", p, manifest.TargetPort(p, w))
		}
	})
}

// TestAttackOpenPodPorts: a port that some pods of a namespace take without their proxy is no open one where the proxy
// of a pod without redirect rules takes it: at its own number the app answers, in plaintext.
func TestAttackOpenPodPorts(t *testing.T) {
	excluding := func(name, namespace string) *manifest.Workload {
		return &manifest.Workload{Kind: "Deployment", Name: name, Namespace: namespace, Plan: &podplan.Plan{Redirect: podplan.InitArgs{ExcludeInboundPorts: netset.PortsOf(9100, 9200)}}}
	}
	direct := func(namespace string, ports ...uint16) *manifest.Workload {
		return &manifest.Workload{Kind: "Deployment", Name: "direct", Namespace: namespace, Plan: &podplan.Plan{Serve: podplan.ProxyArgs{Direct: &podplan.Direct{Ports: netset.PortsOf(ports...)}}}}
	}
	all := []*manifest.Workload{direct("prod", 9100, 8080), excluding("a", "prod"), excluding("b", "data"), excluding("c", "ops"), direct("ops", 9100, 9200)}
	got := manifest.FoldServices(all, nil, nil, "cluster.local", nil, &report.Report{}).OpenPodPorts
	if len(got) != 2 || got["prod"].String() != "9200" || got["data"].String() != "9100,9200" {
		t.Errorf("%v", got)
	}
}
