package kernel

import (
	"crypto/tls"
	"net/netip"
	"testing"

	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
)

// TestAdoption: behind a Service of which no manifest tells stands a server outside of the mesh, and later a member.
// What the first has proved is remembered, so one conversation may still leave in the clear; it is refused, which ends
// the memory, and every later one is mutual TLS.
func TestAdoption(t *testing.T) {
	f := &foreigners{Lab: lab.NewMeshless(t, nil, lab.CoreDNS(t, lab.CoreDNSLater)), speaker: newSpeaker(), pkg: example.Copy(t, "../../examples/pod"),
		leaves: map[string]tls.Certificate{}}
	applyPackage(t, f.Lab, f.pkg, storeWorkload("Deployment", dataNamespace, "plain", "")+clientManifests("one"))
	pods := f.StartAll(lab.PodRequest{Workload: "Deployment/data/plain"}, lab.PodRequest{Workload: "Deployment/data/one"})
	member, client := pods[0], pods[1]
	f.watch(f.Lab, client)
	to, _ := f.start(t, 0, foreignServers[0]) // greets
	talk := func() *spoken { return f.speakForeign(client, netip.AddrPortFrom(to.Addr(), reachPort), false) }
	if s := talk(); s.err != nil {
		t.Fatalf("the server outside of the mesh: %v; the proxy says %+v", s.err, logged(t, client, s))
	}
	f.SetEndpoints(dataNamespace, "foreign-0", lab.Endpoint{Pod: member})
	var said []*spoken
	for range 5 {
		said = append(said, talk())
		logged(t, client, said[len(said)-1]) // its end is known to the proxy
	}
	f.stopWatches(t)
	for i, s := range said {
		if i == 0 && s.err != nil {
			continue // the one that ends the memory
		}
		f.wantSilence(t, s)
		if line := logged(t, client, s); s.err != nil || line.Security != "mutual_tls" {
			t.Errorf("%d: %v; the proxy says %+v", i, s.err, line)
		}
	}
}
