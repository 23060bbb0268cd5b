package kernel

import (
	"context"
	"net/netip"
	"sync"
	"testing"

	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
)

// TestRoles moves the label of the primary between pods, as the agents of PostgreSQL do, while clients talk: between
// two pods of one workload, and between two workloads. Every connection is mutual TLS with whoever is behind the
// Service, and none fails.
func TestRoles(t *testing.T) {
	for _, version := range lab.CoreDNSVersions {
		t.Run(version, func(t *testing.T) { testRoles(t, lab.CoreDNS(t, version)) })
	}
}

func testRoles(t *testing.T, dns lab.Option) {
	l, s := lab.NewMeshless(t, nil, dns), newSpeaker()
	selected := "selector: {app: pg, role: primary}"
	manifests := storeWorkloadOf("StatefulSet", dataNamespace, "pg", "pg", "") + storeWorkloadOf("Deployment", dataNamespace, "standby", "pg", "") +
		storeService(dataNamespace, "pg-all", "selector: {app: pg}, clusterIP: None", "") + storeService(dataNamespace, "primary", selected, "") +
		clientManifests("one") + clientManifests("wide")
	applyPackage(t, l, example.Copy(t, "../../examples/pod"), manifests)
	pg := lab.PodRequest{Workload: "StatefulSet/data/pg"}
	second, primary := pg, pg
	second.Ordinal, primary.Labels = 1, map[string]string{"role": "primary"}
	pods := l.StartAll(primary, second, lab.PodRequest{Workload: "Deployment/data/standby"},
		lab.PodRequest{Workload: "Deployment/data/one"}, lab.PodRequest{Workload: "Deployment/shop/wide"})
	identities := []string{"spiffe://cluster.local/ns/data/statefulset/pg", "spiffe://cluster.local/ns/data/statefulset/pg", "spiffe://cluster.local/ns/data/deployment/standby"}
	for _, p := range pods {
		s.watch(l, p)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	said := make([][]*spoken, 4)
	for i := range said {
		client := pods[3+i%2]
		to := netip.AddrPortFrom(l.ServiceIP(dataNamespace, "primary", 4+2*(i/2)), reachPort)
		load.Go(func() {
			for ctx.Err() == nil && len(said[i]) < 500 {
				said[i] = append(said[i], s.speakTo(client, to))
			}
		})
	}
	steady := map[*spoken]string{} // what is said while nobody moves the label, and to whom
	now := 0
	for range 6 {
		next := (now + 1) % 3
		pods[next].SetLabel("role", "primary")
		pods[now].SetLabel("role", "")
		now = next
		for _, family := range []int{4, 6} {
			to := netip.AddrPortFrom(l.ServiceIP(dataNamespace, "primary", family), reachPort)
			for _, client := range pods[3:] {
				steady[s.speakTo(client, to)] = identities[now]
			}
		}
	}
	cancel()
	load.Wait()
	s.stopWatches(t)
	judgeRoles(t, s, pods[3:], said, steady)
}

func judgeRoles(t *testing.T, s speaker, clients []*lab.Pod, said [][]*spoken, steady map[*spoken]string) {
	t.Helper()
	total, answered, logs := 0, map[string]int{}, map[*lab.Pod]map[string]connectionLine{}
	judge := func(client *lab.Pod, one *spoken, want string) {
		total++
		s.wantSilence(t, one)
		if one.err != nil {
			t.Errorf("%s: %v", client.Name, one.err)
			return
		}
		line, ok := logs[client][one.from+one.to]
		if !ok {
			line = logged(t, client, one)
			logs[client] = accessLog(client)
		}
		answered[line.Identity]++
		if line.Security != "mutual_tls" || want != "" && line.Identity != want {
			t.Errorf("%s: its proxy says %+v, want mutual_tls with %q", client.Name, line, want)
		}
	}
	for i := range said {
		for _, one := range said[i] {
			judge(clients[i%2], one, "")
		}
	}
	for one, want := range steady {
		for _, client := range clients {
			if from, err := netip.ParseAddrPort(one.from); err == nil && (from.Addr() == client.IP4 || from.Addr() == client.IP6) {
				judge(client, one, want)
			}
		}
	}
	t.Logf("%d conversations, answered by %v", total, answered)
	if len(answered) != 2 || total < 24+len(said) {
		t.Errorf("%d conversations, answered by %v: want both workloads", total, answered)
	}
}
