package kernel

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
)

// TestTransparentRedisCluster: with transparent ports, Redis Cluster forms without being told any address: each node
// learns its peers' from their connections. Nothing of it is to be read on a wire.
func TestTransparentRedisCluster(t *testing.T) {
	lab.Require(t)
	server, cli := debian(t, "redis-server"), debian(t, "redis-cli")
	l := lab.NewMeshless(t, nil)
	const ports, secret = "ports: [{containerPort: 6379}, {containerPort: 16379}]\n", "a-value-in-the-clear"
	workload := strings.Replace(storeWorkload("StatefulSet", dataNamespace, "redis", `meshless.dev/transparent-ports: "6379,16379"`), fmt.Sprintf("ports: [{containerPort: %d}]\n", reachPort), ports, 1)
	service := "---\n{apiVersion: v1, kind: Service, metadata: {name: redis-all, namespace: " + dataNamespace +
		"}, spec: {selector: {app: redis}, clusterIP: None, publishNotReadyAddresses: true, ports: [{name: redis, port: 6379}, {name: bus, port: 16379}]}}\n"
	applyPackage(t, l, example.Copy(t, "../../examples/pod"), workload+service)
	requests := make([]lab.PodRequest, 3)
	for i := range requests {
		requests[i] = lab.PodRequest{Workload: "StatefulSet/data/redis", PodOptions: lab.PodOptions{Ordinal: i}}
	}
	nodes := l.StartAll(requests...)
	var addresses []string
	var wires []*lab.Capture
	for _, node := range nodes {
		wires = append(wires, l.Capture(node))
		runIn(t, l, node, redisPort, server, "--port", "6379", "--cluster-enabled", "yes", "--save", "", "--bind", "0.0.0.0", "--protected-mode", "no", "--dir", scratch(t))
		addresses = append(addresses, netip.AddrPortFrom(node.IP4, redisPort).String())
	}
	in := func(node *lab.Pod, args ...string) string {
		t.Helper()
		var out []byte
		err := node.NS.Do(func() (err error) {
			out, err = exec.CommandContext(t.Context(), "timeout", append([]string{"60", cli}, args...)...).CombinedOutput()
			return err
		})
		if err != nil {
			t.Fatalf("redis-cli %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	in(nodes[0], append(append([]string{"--cluster", "create"}, addresses...), "--cluster-yes")...)
	for _, node := range nodes {
		for !strings.Contains(in(node, "cluster", "info"), "cluster_state:ok") {
			time.Sleep(50 * time.Millisecond)
		}
		known := in(node, "cluster", "nodes")
		for _, address := range addresses {
			if !strings.Contains(known, " "+address+"@16379") {
				t.Errorf("%s does not know %s:\n%s", node.Name, address, known)
			}
		}
	}
	if got := in(nodes[1], "-c", "-h", nodes[2].IP4.String(), "set", "key", secret); !strings.Contains(got, "OK") {
		t.Errorf("set: %q", got)
	}
	if got := in(nodes[0], "-c", "get", "key"); !strings.Contains(got, secret) {
		t.Errorf("get: %q", got)
	}
	for i, wire := range wires {
		wire.Stop()
		if wire.Frames() == 0 || wire.Contains([]byte(secret)) || wire.Contains([]byte("CLUSTER")) {
			t.Errorf("%s: %d frames, of which some are of Redis in the clear", nodes[i].Name, wire.Frames())
		}
	}
}
