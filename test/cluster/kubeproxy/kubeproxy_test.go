//go:build e2e && linux

package kubeproxy

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
)

const namespace = "kubeproxy"

// TestModes goes all ways once in each mode, the one that was found last, so that the cluster is left as it was, and
// shown to be well.
func TestModes(t *testing.T) {
	stage.RequireNode(t)
	e := stage.Deploy(t, namespace, "testdata/ways.yaml", "")
	stage.Rollout(t, namespace, "deployment/web")
	stage.Ready(t, namespace, "pod/client")
	proxy := stage.FindDaemon(t, "proxy")
	switched := false
	t.Cleanup(func() {
		if switched { // a check has ended the test half-way
			proxy.Kill(t)
			proxy.Start(t, nil)
		}
	})
	modes := []string{"iptables", "nftables"}
	if proxy.Has("--proxy-mode=iptables") {
		slices.Reverse(modes)
	}
	for i, mode := range modes {
		last := i == len(modes)-1
		proxy.Kill(t)
		switched = !last
		proxy.Start(t, func(args []string) []string { return inMode(args, mode) })
		t.Run(mode, func(t *testing.T) {
			wantRulesOf(t, mode)
			testWays(t)
			testNode(t, e)
		})
	}
}

// inMode sets the mode in kube-proxy's arguments.
func inMode(args []string, mode string) []string {
	args = slices.DeleteFunc(args, func(a string) bool { return strings.HasPrefix(a, "--proxy-mode=") })
	return append(args, "--proxy-mode="+mode)
}

// wantRulesOf waits until the namespace's Service stands in the rules of the mode, and no rule of kube-proxy for it in
// the other's: it cleans up at its start.
func wantRulesOf(t *testing.T, mode string) {
	t.Helper()
	ip := stage.Must(t, "", "-n", namespace, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	written := map[string]func() bool{
		"nftables": func() bool {
			return strings.Contains(output(t, "nft", "list", "ruleset"), ip+" . tcp . 80 : goto")
		},
		"iptables": func() bool { return strings.Contains(output(t, "iptables-save", "-t", "nat"), "-d "+ip+"/32") },
	}
	stage.Eventually(t, func() error {
		for other, is := range written {
			if is() != (other == mode) {
				return fmt.Errorf("rules of %s are there: %v", other, is())
			}
		}
		return nil
	})
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).Output()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return string(out)
}

// testWays calls from pods of the mesh. Each call must raise what the server's proxy counts as mutual TLS, and nothing
// may arrive in the clear.
func testWays(t *testing.T) {
	web := stage.Pods(t, namespace, "app=web")[0].Name
	for _, way := range []struct{ name, pod, container, url string }{
		{"clusterIP", "client", "client", "http://web/"},
		{"headless", "client", "client", "http://headless:8080/"},
		{"clusterIP of a NodePort", "client", "client", "http://node:8000/"},
		{"its own clusterIP", web, "web", "http://web/"},
	} {
		t.Run(way.name, func(t *testing.T) {
			before := stage.OpenedBy(t, namespace, web, "inbound", "mutual_tls")
			stage.Eventually(t, func() error {
				if a := stage.Call(t, namespace, way.pod, way.container, way.url)[0]; a.Error != "" || a.Host != web || !a.ByProxy() {
					return fmt.Errorf("%s: %+v, want the answer of %s, by its proxy", way.url, a, web)
				}
				return nil
			})
			if after := stage.OpenedBy(t, namespace, web, "inbound", "mutual_tls"); after <= before {
				t.Errorf("connections by mutual TLS were %v and are %v", before, after)
			}
		})
	}
	if n := stage.OpenedBy(t, namespace, web, "inbound", "plaintext"); n > 0 {
		t.Errorf("%v connections arrived in the clear", n)
	}
}

// testNode calls the node's port from the node: with the client's certificate, and, as the control, without one.
func testNode(t *testing.T, e *example.Example) {
	port := stage.Must(t, "", "-n", namespace, "get", "service", "node", "-o", "jsonpath={.spec.ports[0].nodePort}")
	address := stage.Must(t, "", "get", "nodes", "-o", `jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}`) + ":" + port
	web := stage.Pods(t, namespace, "app=web")[0].Name
	member := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: asClient(t, e), DisableKeepAlives: true}}
	page, err := get(member, "https://"+address+"/")
	if err != nil || page.Host != web || !page.ByProxy() {
		t.Errorf("the node's port, with a certificate of the mesh: %+v (%v), want the answer of %s, by its proxy", page, err, web)
	}
	stranger := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	if page, err := get(stranger, "http://"+address+"/"); err == nil {
		t.Errorf("the node's port answers plaintext: %+v", page)
	}
	if n := stage.OpenedBy(t, namespace, web, "inbound", "plaintext"); n > 0 {
		t.Errorf("%v connections arrived in the clear", n)
	}
}

// asClient is the TLS of whoever holds the leaf of the pod client, and verifies the server as any TLS client does, by
// its name.
func asClient(t *testing.T, e *example.Example) *tls.Config {
	t.Helper()
	var secret corev1.Secret
	if err := json.Unmarshal([]byte(stage.Must(t, "", "-n", namespace, "get", "secret", api.NamePrefix+"pod-client", "-o", "json")), &secret); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(stage.State(t, namespace, api.BundleFile))) {
		t.Fatal("the bundle holds no certificate")
	}
	return &tls.Config{Certificates: []tls.Certificate{e.Leaf(t, secret)}, RootCAs: roots, ServerName: "web." + namespace + ".svc.cluster.local"}
}

func get(client *http.Client, url string) (answer stage.Answer, err error) {
	response, err := client.Get(url)
	if err != nil {
		return answer, err
	}
	defer response.Body.Close()
	return answer, json.NewDecoder(response.Body).Decode(&answer.Page)
}
