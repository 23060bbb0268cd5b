package kernel

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
)

// TestNewNamespace: a package gets a namespace that the client's map does not know at all, and no authority is shared.
func TestNewNamespace(t *testing.T) {
	for _, version := range lab.CoreDNSVersions {
		t.Run(version, func(t *testing.T) {
			l, s := lab.NewMeshless(t, nil, lab.CoreDNS(t, version)), newSpeaker()
			pkg := example.Copy(t, "../../examples/pod")
			applyPackage(t, l, pkg, clientManifests("wide"))
			client := l.StartPod("Deployment/shop/wide")
			applyPackage(t, l, pkg, clientManifests("wide")+storeWorkload("Deployment", dataNamespace, "plain", "")+
				storeService(dataNamespace, "plain", "selector: {app: plain}", "")+storeWorkload("Deployment", dataNamespace, "lone", ""))
			pods := l.StartAll(lab.PodRequest{Workload: "Deployment/data/plain"}, lab.PodRequest{Workload: "Deployment/data/lone"})
			s.watch(l, client)
			said := map[string]*spoken{}
			for name, to := range map[string]netip.Addr{
				"Service": l.ServiceIP(dataNamespace, "plain", 4), "pod": pods[0].IP4, "pod without a Service": pods[1].IP6,
			} {
				said[name] = s.speakTo(client, netip.AddrPortFrom(to, reachPort))
			}
			s.stopWatches(t)
			for name, one := range said {
				s.wantSilence(t, one)
				if line := logged(t, client, one); one.err != nil || line.Security != "mutual_tls" {
					t.Errorf("%s: %v; the proxy says %s", name, one.err, fmt.Sprintf("%+v", line))
				}
			}
		})
	}
}
