package kernel

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
)

// modeChange is a workload whose mode changes, with a pod of before and one of after, and clients.
type modeChange struct {
	*lab.Lab
	speaker
	clients map[form]*lab.Pod
	pods    map[form]*lab.Pod // of the server
}

// TestDirectChange: while a workload gets redirect rules or loses them, there are pods, Services and maps of both
// modes. A connection between what does not fit is refused, and nothing that a client says is on a wire. Once a pod and
// its Service are of one mode, clients with maps of before reach it through the clusterIP; at the pod they do once they
// have the new map.
func TestDirectChange(t *testing.T) {
	for _, to := range forms {
		t.Run("to "+string(to), func(t *testing.T) { testChange(t, to) })
	}
}

func testChange(t *testing.T, to form) {
	was := map[form]form{ruled: direct, direct: ruled}[to]
	c := &modeChange{Lab: lab.NewMeshless(t, nil), speaker: newSpeaker(), clients: map[form]*lab.Pod{}, pods: map[form]*lab.Pod{}}
	pkg := example.Copy(t, "../../examples/pod")
	applyPackage(t, c.Lab, pkg, changing(was))
	for _, f := range forms {
		c.clients[f] = c.StartPod("Deployment/shop/" + string(f) + "-client")
		c.watch(c.Lab, c.clients[f])
	}
	c.pods[was] = c.StartPod("Deployment/data/store")
	c.wantAll(t, "before", true, "store", "store-all")

	applyPackage(t, c.Lab, pkg, changing(to)) // the clients have the maps of before
	c.wantAll(t, "the Service is new, and the pod is not", false, "store")
	c.pods[to] = c.Start("Deployment/data/store", lab.PodOptions{Ordinal: 1})
	c.pods[was].SetReady(false)
	c.wantAll(t, "the pod is new, and the maps are not", true, "store")
	c.wantAll(t, "the pod is new, and the maps are not", false, "store-all")
	for _, p := range c.clients {
		if err := p.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range c.clients { // until the proxy has looked
		awaitLog(t, p, `"generation":2`)
	}
	c.wantAll(t, "all is new", true, "store", "store-all")
	c.stopWatches(t)
	for p, w := range c.watches {
		if w.Marks() > 0 {
			t.Errorf("%d marks passed in the clear at %s", w.Marks(), p.Name)
		}
	}
}

// changing are a server and clients.
func changing(server form) string {
	out := server.workload("Deployment", dataNamespace, "store", "args: [db]", fmt.Sprint(reachPort)) +
		directService(dataNamespace, "store", "store", "", fmt.Sprintf("{port: %d, targetPort: %d}", storePort, reachPort)) +
		directService(dataNamespace, "store-all", "store", "clusterIP: None", fmt.Sprintf("{port: %d}", reachPort))
	for _, f := range forms {
		out += f.workload("Deployment", shopNamespace, string(f)+"-client", fmt.Sprintf("args: [serve, --port, %q]", fmt.Sprint(idlePort)), fmt.Sprint(idlePort))
	}
	return out
}

// wantAll has every client speak to Services, each of which must serve it or refuse it.
func (c *modeChange) wantAll(t *testing.T, when string, served bool, services ...string) {
	t.Helper()
	for f, p := range c.clients {
		for _, service := range services {
			s := c.speakByName(p, service)
			if (s.err == nil) != served {
				t.Errorf("%s: %s to %s: %v, want served: %v", when, f, service, s.err, served)
			}
		}
	}
}

// speakByName looks a Service up, says a mark first, and wants the server's greeting and answer.
func (c *modeChange) speakByName(p *lab.Pod, service string) *spoken {
	s, number := c.next()
	ips, err := p.Lookup(context.Background(), service+"."+dataNamespace+".svc.cluster.local", 4)
	if err == nil && len(ips) != 1 {
		err = fmt.Errorf("%s has the addresses %v", service, ips)
	}
	if s.err = err; err != nil {
		return s
	}
	port := uint16(storePort)
	if strings.HasSuffix(service, "-all") {
		port = reachPort
	}
	conn, err := dialWithin(p, netip.AddrPortFrom(ips[0].Unmap(), port), number, 15*time.Second)
	if s.err = err; err != nil {
		return s
	}
	defer conn.Close()
	if _, s.err = fmt.Fprintf(conn, "PUT %s\n", s.mark); s.err != nil {
		return s
	}
	in := bufio.NewReader(conn)
	for range 2 {
		line, err := in.ReadString('\n')
		if err == nil && !strings.HasPrefix(line, "+ ") {
			err = fmt.Errorf("it says %q", line)
		}
		if s.err = err; err != nil {
			return s
		}
	}
	return s
}

// awaitLog waits until a pod's proxy has said something.
func awaitLog(t *testing.T, p *lab.Pod, text string) {
	t.Helper()
	proxy := p.Container(api.ProxyName)
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(proxy.Log(), text); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the proxy of %s does not say %q", p.Name, text)
		}
	}
}
