package kernel

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
)

// judge wants mutual TLS with the workload of the cell, and silence on every wire.
func (r *reach) judge(t *testing.T, c reachCell, s *spoken) {
	r.wantSilence(t, s)
	if s.err != nil {
		t.Errorf("client: %v; its proxy: %+v", s.err, logged(t, r.clients[c.client], s))
		return
	}
	line := logged(t, r.clients[c.client], s)
	want := fmt.Sprintf("spiffe://cluster.local/ns/%s/%s/%s", dataNamespace, strings.ToLower(kindOf(c.server)), c.server)
	if line.Security != "mutual_tls" || line.Identity != want {
		t.Errorf("the client's proxy says %+v, want mutual_tls with %s", line, want)
	}
}

func (r speaker) wantSilence(t *testing.T, s *spoken) {
	t.Helper()
	for p, w := range r.watches {
		if w.Saw(s.mark) {
			t.Errorf("the mark passed in the clear at %s", p.Name)
		}
	}
}

// outsider is a destination that is not in the mesh.
type outsider struct {
	client, name string
	family       int
	to           netip.AddrPort
}

// runOutside has every client dial what is not in the mesh.
func (r *reach) runOutside(t *testing.T) map[outsider]*spoken {
	t.Helper()
	results := map[outsider]*spoken{}
	var mu sync.Mutex // guards results
	var all sync.WaitGroup
	for _, client := range r.world.clients() {
		for _, family := range []int{4, 6} {
			for name, to := range map[string]netip.AddrPort{
				"API server":     netip.AddrPortFrom(r.ServiceIP("default", "kubernetes", family), 443),
				"legacy Service": netip.AddrPortFrom(r.ServiceIP("legacy", "legacy", family), reachPort),
				"legacy pod":     netip.AddrPortFrom(r.outside["legacy"].IP(family), reachPort),
				"stray Service":  netip.AddrPortFrom(r.ServiceIP(dataNamespace, "stray", family), reachPort),
				"named stray":    netip.AddrPortFrom(r.ServiceIP(dataNamespace, "allowed", family), reachPort),
				"opted out":      netip.AddrPortFrom(r.ServiceIP(dataNamespace, "optout", family), reachPort),
			} {
				all.Go(func() {
					s := r.speakTo(r.clients[client], to)
					mu.Lock()
					defer mu.Unlock()
					results[outsider{client, name, family, to}] = s
				})
			}
		}
	}
	all.Wait()
	return results
}

// judgeOutside wants the conversation held, and the mark on the wire: the control of all that is silent. A Service that
// no manifest shows, in another namespace of the client's own package, is taken for one in the mesh (docs/proxy.md): it
// is refused, unless the config names it.
func (r *reach) judgeOutside(t *testing.T, results map[outsider]*spoken) {
	for o, s := range results {
		t.Run(fmt.Sprintf("%s/%s/IPv%d", o.client, o.name, o.family), func(t *testing.T) {
			if o.name == "stray Service" && o.client == "wide" {
				if r.wantSilence(t, s); s.err == nil {
					t.Error("it is reached, although the map of the client says that it must be in the mesh")
				}
			} else if s.err != nil {
				t.Errorf("client: %v; its proxy: %+v", s.err, logged(t, r.clients[o.client], s))
			} else if !r.watches[r.clients[o.client]].Saw(s.mark) {
				t.Error("the mark is not on the wire")
			}
		})
	}
}

// runHidden dials a pod of which DNS knows nothing yet, and then once it does.
func (r *reach) runHidden(t *testing.T) map[string][2]*spoken {
	t.Helper()
	results := map[string][2]*spoken{}
	for _, known := range []int{0, 1} {
		if known == 1 {
			r.hidden.Report()
		}
		for _, client := range r.world.clients() {
			pair := results[client]
			pair[known] = r.speakTo(r.clients[client], netip.AddrPortFrom(r.hidden.IP4, reachPort))
			results[client] = pair
		}
	}
	return results
}

// judgeHidden wants nothing in the clear. The conversation may fail for as long as a denial is remembered: the client
// tries again, as it does with a server that is not up.
func (r *reach) judgeHidden(t *testing.T, results map[string][2]*spoken) {
	for client, pair := range results {
		for known, s := range pair {
			t.Run(fmt.Sprintf("%s/pod that DNS does not know yet/%d", client, known), func(t *testing.T) {
				r.wantSilence(t, s)
				t.Logf("client: %v; its proxy: %+v", s.err, logged(t, r.clients[client], s))
			})
		}
	}
}
