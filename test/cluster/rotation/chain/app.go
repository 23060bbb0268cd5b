//go:build e2e && linux

package chain

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/cluster/kube"
)

// Selector finds the pods of the chain.
const Selector = "part-of=chain"

// App is the chain as it runs.
type App struct {
	Folder   *Folder
	Rendered *Rendered // what was applied last
	Pods     []Pod     // as Deployed or Unchanged saw them last
	forwards *forwards
}

// New makes the namespace and gives it the identity. Nothing is deployed yet.
func New(t *testing.T, folder *Folder) *App {
	t.Helper()
	kube.NewNamespace(t, folder.Namespace)
	kube.Must(t, folder.IdentitySecret(folder.Cluster), "apply", "-f", "-")
	return &App{Folder: folder, forwards: newForwards(t, folder.Namespace)}
}

// ID is the SPIFFE ID of one of the app's Deployments.
func (a *App) ID(deployment string) string {
	return "spiffe://" + api.DefaultDomain + "/ns/" + a.Folder.Namespace + "/deployment/" + deployment
}

// Apply renders the folder and applies what comes out.
func (a *App) Apply(t *testing.T) {
	t.Helper()
	a.Rendered = Read(t, a.Folder.Render(t))
	kube.Must(t, a.Rendered.Text, "apply", "-f", "-")
}

// Rollout waits until every Deployment of the namespace runs as it was applied, and nothing of before is left.
func (a *App) Rollout(t *testing.T) {
	t.Helper()
	names := strings.Fields(kube.Must(t, "", "-n", a.Folder.Namespace, "get", "deployments", "-o", "name"))
	if len(names) == 0 {
		t.Fatal("no Deployment was applied")
	}
	for _, name := range names {
		kube.Must(t, "", "-n", a.Folder.Namespace, "rollout", "status", name, "--timeout=90s")
	}
	kube.Poll(t, 40*time.Second, func() error {
		list, err := kube.Kubectl("", "-n", a.Folder.Namespace, "get", "pods", "-l", Selector, "-o", "jsonpath={.items[*].metadata.deletionTimestamp}")
		if err == nil && strings.TrimSpace(list) != "" {
			err = errors.New("pods of before still end")
		}
		return err
	})
	a.Pods = a.pods(t)
}

func (a *App) pods(t *testing.T) []Pod {
	t.Helper()
	pods, err := Pods(a.Folder.Namespace, Selector)
	if err != nil {
		t.Fatal(err)
	}
	return pods
}

// IPs are the addresses of the pods.
func (a *App) IPs() (ips []netip.Addr) {
	for _, p := range a.Pods {
		ips = append(ips, p.IP)
	}
	return ips
}

// Unchanged wants the very pods of the last rollout, and no container of them restarted.
func (a *App) Unchanged(t *testing.T) {
	t.Helper()
	if diff := cmp.Diff(a.Pods, a.pods(t), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("pods changed:\n%s", diff)
	}
}

// Of are the pods of some Deployments; of none, all.
func (a *App) Of(deployments ...string) []Pod {
	return slices.DeleteFunc(slices.Clone(a.Pods), func(p Pod) bool { return len(deployments) > 0 && !slices.Contains(deployments, p.App) })
}

// config is what this package reads of a proxy's /configz.
type config struct {
	Failure  string
	SPIFFEID string
	Leaf     struct{ Serial, KeyDigest string }

	Authorities []struct{ KeyDigest string }
	Mesh        json.RawMessage
}

// InForce waits until every proxy says that it uses what was applied last, and nothing failed on the way there: its
// leaf, its bundle, its mesh map. The time is three of the kubelet's periods here; that of a cluster as it comes from
// the package is a minute.
func (a *App) InForce(t *testing.T) {
	t.Helper()
	started := time.Now()
	for _, p := range a.Pods {
		kube.Poll(t, 150*time.Second, func() error { return a.inForce(p) })
		metrics := kube.Metrics(t, a.Folder.Namespace, p.Name)
		leaf := a.Rendered.Leaves[a.ID(p.App)]
		if got := kube.Metric(t, metrics, "meshless_leaf_not_after_timestamp_seconds"); got != float64(leaf.NotAfter.Unix()) {
			t.Errorf("%s: the metrics say that the leaf expires at %v, and it does at %d", p.Name, got, leaf.NotAfter.Unix())
		}
		if kube.Metric(t, metrics, "meshless_reload_failing") != 0 {
			t.Errorf("%s: the metrics say that the newest files are refused", p.Name)
		}
	}
	t.Logf("in force in %d proxies after %v", len(a.Pods), time.Since(started).Round(100*time.Millisecond))
}

func (a *App) inForce(p Pod) error {
	text, err := a.forwards.get(p.Name, api.AdminPort, "/configz")
	if err != nil {
		return err
	}
	var got config
	if err := json.Unmarshal(text, &got); err != nil {
		return err
	}
	leaf := a.Rendered.Leaves[a.ID(p.App)]
	switch {
	case got.SPIFFEID != a.ID(p.App) || leaf == nil:
		return fmt.Errorf("%s is %s", p.Name, got.SPIFFEID)
	case got.Leaf.Serial != leaf.SerialNumber.Text(16):
		return fmt.Errorf("%s uses leaf %s, and %s was applied (%s)", p.Name, got.Leaf.Serial, leaf.SerialNumber.Text(16), got.Failure)
	case len(got.Authorities) != len(a.Rendered.Bundle):
		return fmt.Errorf("%s trusts %d authorities, and %d were applied (%s)", p.Name, len(got.Authorities), len(a.Rendered.Bundle), got.Failure)
	}
	for i, ca := range a.Rendered.Bundle {
		if got.Authorities[i].KeyDigest != svid.KeyDigest(ca) {
			return fmt.Errorf("%s trusts another authority than %q (%s)", p.Name, ca.Subject, got.Failure)
		}
	}
	if diff := meshDiff(got.Mesh, a.Rendered.Mesh); diff != "" {
		return fmt.Errorf("%s has another mesh map (%s):\n%s", p.Name, got.Failure, diff)
	}
	return nil
}

// meshDiff compares a map as JSON, the form of /configz.
func meshDiff(got json.RawMessage, want *meshmap.Map) string {
	text, err := json.Marshal(want)
	if err != nil {
		return err.Error()
	}
	var a, b any
	if err := errors.Join(json.Unmarshal(got, &a), json.Unmarshal(text, &b)); err != nil {
		return err.Error()
	}
	return cmp.Diff(b, a)
}

// Cuts are how many connections of mutual TLS the proxies of each Deployment closed since their peer was no longer
// acceptable. One that is cut is counted at one of its ends or at both, whoever learns first.
func (a *App) Cuts(t *testing.T) map[string]float64 {
	t.Helper()
	cuts := map[string]float64{}
	for _, p := range a.Pods {
		metrics := kube.Metrics(t, a.Folder.Namespace, p.Name)
		cuts[p.App] += kube.Metric(t, metrics, "meshless_connections_closed_total", `security="mutual_tls"`, `reason="no_longer_accepted"`)
	}
	return cuts
}

// Generations are the numbers of the generations in use, by pod: what is no part of /configz, such as the identity,
// shows by them alone.
func (a *App) Generations(t *testing.T) map[string]float64 {
	t.Helper()
	numbers := map[string]float64{}
	for _, p := range a.Pods {
		metrics := kube.Metrics(t, a.Folder.Namespace, p.Name)
		numbers[p.Name] = kube.Metric(t, metrics, "meshless_generation")
	}
	return numbers
}

// Warnings prints, when the test has failed, what proxies say but of connections that carried answers and just ended:
// the whole log of a pod is too long for that.
func (a *App) Warnings(t *testing.T) {
	t.Helper()
	if !t.Failed() {
		return
	}
	for _, p := range a.pods(t) {
		log, err := kube.Kubectl("", "-n", a.Folder.Namespace, "logs", p.Name, "-c", api.ProxyName, "--since=60s")
		var kept []string
		for line := range strings.Lines(log) {
			answered := strings.Contains(line, `"reason":"done"`) && !strings.Contains(line, `"bytes_sent":0`)
			if !answered && !strings.Contains(line, `"handshake":"not_tls"`) {
				kept = append(kept, line)
			}
		}
		t.Logf("--- the proxy of %s (%v) ---\n%s", p.Name, err, strings.Join(kept[max(0, len(kept)-40):], ""))
	}
}

// Plaintext prints, when the test has failed, what the proxies, also those that were killed, say of connections that
// are not encrypted.
func (a *App) Plaintext(t *testing.T) {
	t.Helper()
	if !t.Failed() {
		return
	}
	for _, p := range a.pods(t) {
		for _, previous := range []string{"--previous=false", "--previous"} {
			// none before the first
			log, _ := kube.Kubectl("", "-n", a.Folder.Namespace, "logs", p.Name, "-c", api.ProxyName, previous)
			for line := range strings.Lines(log) {
				if strings.Contains(line, `"handshake":"not_tls"`) || strings.Contains(line, `"security":"passthrough"`) || strings.Contains(line, `"security":"plaintext"`) {
					t.Logf("%s (%s, %s): %s", p.Name, p.IP, previous, line)
				}
			}
		}
	}
}

// Ask gets a path of a pod's caller.
func (a *App) Ask(t *testing.T, pod, path string) []byte {
	t.Helper()
	text, err := a.forwards.get(pod, CallerPort, path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
