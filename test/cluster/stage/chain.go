//go:build linux

package stage

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
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/example"
)

// Chain is an application, and the folder in Git that it comes from: client asks front, front asks middle, middle asks
// back, and so does guest, in the mesh, while a load asks from within the mesh without a pause. A test edits the folder
// and runs the real commands on it, as a user would; what the proxies say of themselves tells when they use what was
// applied. The load counts what failed, so that a test can say that nothing did.
type Chain struct {
	Namespace string
	Folder    *example.Example
	Rendered  *Rendered // what was applied last
	Pods      []Replica // as Rollout saw them last
	forwards  *forwards
	visitor   *Chain // a second package (Visit), or nil
	ca        string // file of the CA of both
}

// NewChain makes the namespace and gives it the identity. Nothing is deployed yet.
func NewChain(t *testing.T, namespace string) *Chain {
	t.Helper()
	NewNamespace(t, namespace)
	c := &Chain{Namespace: namespace, Folder: ChainFolder(t, namespace), forwards: newForwards(t, namespace)}
	Must(t, c.Folder.IdentitySecret(namespace), "apply", "-f", "-")
	return c
}

// ChainFolder is a copy of the chain's kustomization, for a namespace.
func ChainFolder(t *testing.T, namespace string) *example.Example {
	t.Helper()
	folder := example.Copy(t, "../stage/testdata/chain")
	folder.Replace(t, "kustomization.yaml", "chain-namespace", namespace)
	return folder
}

// ID is the SPIFFE ID of one of the app's Deployments.
func (c *Chain) ID(deployment string) string {
	return "spiffe://" + api.DefaultDomain + "/ns/" + c.Namespace + "/deployment/" + deployment
}

// Apply renders the folder and applies what comes out.
func (c *Chain) Apply(t *testing.T) {
	t.Helper()
	c.Rendered = Read(t, Render(t, c.Folder))
	Must(t, c.Rendered.Text, "apply", "-f", "-")
	if c.visitor != nil {
		c.visitor.Apply(t)
	}
}

// Rollout waits until every Deployment of the namespace runs as it was applied, and nothing of before is left.
func (c *Chain) Rollout(t *testing.T) {
	t.Helper()
	names := strings.Fields(Must(t, "", "-n", c.Namespace, "get", "deployments", "-o", "name"))
	if len(names) == 0 {
		t.Fatal("no Deployment was applied")
	}
	for _, name := range names {
		Must(t, "", "-n", c.Namespace, "rollout", "status", name, "--timeout=110s")
	}
	Poll(t, 40*time.Second, func() error {
		list, err := Kubectl("", "-n", c.Namespace, "get", "pods", "-l", chainSelector, "-o", "jsonpath={.items[*].metadata.deletionTimestamp}")
		if err == nil && strings.TrimSpace(list) != "" {
			err = errors.New("pods of before still end")
		}
		return err
	})
	c.Pods = c.present(t)
	if c.visitor != nil {
		c.visitor.Rollout(t)
	}
}

func (c *Chain) present(t *testing.T) []Replica {
	t.Helper()
	pods, err := c.Present()
	if err != nil {
		t.Fatal(err)
	}
	return pods
}

// Replica is a pod of the chain as the API server has it.
type Replica struct {
	Name, App string
	UID       types.UID
	IP        netip.Addr
	Restarts  int32 // of all containers
	Ready     bool
	Meshed    bool
}

// chainSelector finds the pods of the chain.
const chainSelector = "part-of=chain"

// Present are the pods of the chain that do not end, by name.
func (c *Chain) Present() (pods []Replica, err error) {
	all, err := listPods(c.Namespace, chainSelector)
	for _, p := range all {
		if p.DeletionTimestamp == nil {
			pods = append(pods, replicaOf(p))
		}
	}
	slices.SortFunc(pods, func(a, b Replica) int { return strings.Compare(a.Name, b.Name) })
	return pods, err
}

func replicaOf(p corev1.Pod) Replica {
	r := Replica{Name: p.Name, App: p.Labels["app"], UID: p.UID, Meshed: p.Annotations[api.WorkloadAnnotation] != "", Ready: IsReady(p)}
	r.IP, _ = netip.ParseAddr(p.Status.PodIP) // none yet, while it starts
	for _, s := range statuses(p) {
		r.Restarts += s.RestartCount
	}
	return r
}

// IPs are the addresses of the pods.
func (c *Chain) IPs() (ips []netip.Addr) {
	for _, p := range c.Pods {
		ips = append(ips, p.IP)
	}
	return ips
}

// Unchanged wants the very pods of the last rollout, and no container of them restarted.
func (c *Chain) Unchanged(t *testing.T) {
	t.Helper()
	if diff := cmp.Diff(c.Pods, c.present(t), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("pods changed:\n%s", diff)
	}
	if c.visitor != nil {
		c.visitor.Unchanged(t)
	}
}

// Of are the pods of some Deployments; of none, all.
func (c *Chain) Of(deployments ...string) []Replica {
	return slices.DeleteFunc(slices.Clone(c.Pods), func(p Replica) bool { return len(deployments) > 0 && !slices.Contains(deployments, p.App) })
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
// leaf, its bundle, its mesh map. The kubelet looks every minute (syncFrequency), as by default.
func (c *Chain) InForce(t *testing.T) {
	t.Helper()
	started := time.Now()
	for _, p := range c.Pods {
		Poll(t, 150*time.Second, func() error { return c.inForce(p) })
		metrics := Metrics(t, c.Namespace, p.Name)
		leaf := c.Rendered.Leaves[c.ID(p.App)]
		if got := Metric(t, metrics, "meshless_leaf_not_after_timestamp_seconds"); got != float64(leaf.NotAfter.Unix()) {
			t.Errorf("%s: the metrics say that the leaf expires at %v, and it does at %d", p.Name, got, leaf.NotAfter.Unix())
		}
		if Metric(t, metrics, "meshless_reload_failing") != 0 {
			t.Errorf("%s: the metrics say that the newest files are refused", p.Name)
		}
	}
	t.Logf("in force in %d proxies after %v", len(c.Pods), time.Since(started).Round(100*time.Millisecond))
	if c.visitor != nil {
		c.visitor.InForce(t)
	}
}

func (c *Chain) inForce(p Replica) error {
	text, err := c.forwards.get(p.Name, api.AdminPort, "/configz")
	if err != nil {
		return err
	}
	var got config
	if err := json.Unmarshal(text, &got); err != nil {
		return err
	}
	leaf := c.Rendered.Leaves[c.ID(p.App)]
	switch {
	case got.SPIFFEID != c.ID(p.App) || leaf == nil:
		return fmt.Errorf("%s is %s", p.Name, got.SPIFFEID)
	case got.Leaf.Serial != leaf.SerialNumber.Text(16):
		return fmt.Errorf("%s uses leaf %s, and %s was applied (%s)", p.Name, got.Leaf.Serial, leaf.SerialNumber.Text(16), got.Failure)
	case len(got.Authorities) != len(c.Rendered.Bundle):
		return fmt.Errorf("%s trusts %d authorities, and %d were applied (%s)", p.Name, len(got.Authorities), len(c.Rendered.Bundle), got.Failure)
	}
	for i, ca := range c.Rendered.Bundle {
		if got.Authorities[i].KeyDigest != svid.KeyDigest(ca) {
			return fmt.Errorf("%s trusts another authority than %q (%s)", p.Name, ca.Subject, got.Failure)
		}
	}
	if diff := meshDiff(got.Mesh, c.Rendered.Mesh); diff != "" {
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
func (c *Chain) Cuts(t *testing.T) map[string]float64 {
	t.Helper()
	cuts := map[string]float64{}
	for _, p := range c.Pods {
		metrics := Metrics(t, c.Namespace, p.Name)
		cuts[p.App] += Metric(t, metrics, "meshless_connections_closed_total", `security="mutual_tls"`, `reason="no_longer_accepted"`)
	}
	return cuts
}

// Warnings prints, when the test has failed, what proxies say but of connections that carried answers and just ended:
// the whole log of a pod is too long for that.
func (c *Chain) Warnings(t *testing.T) {
	t.Helper()
	if !t.Failed() {
		return
	}
	if c.visitor != nil {
		c.visitor.Warnings(t)
	}
	for _, p := range c.present(t) {
		log, err := Kubectl("", "-n", c.Namespace, "logs", p.Name, "-c", api.ProxyName, "--since=60s")
		var kept []string
		for line := range strings.Lines(log) {
			answered := strings.Contains(line, `"reason":"done"`) && !strings.Contains(line, `"bytes_sent":0`)
			if !answered && !strings.Contains(line, `"handshake_failure":"not_tls"`) {
				kept = append(kept, line)
			}
		}
		t.Logf("--- the proxy of %s (%v) ---\n%s", p.Name, err, strings.Join(kept[max(0, len(kept)-40):], ""))
	}
}

// Plaintext prints, when the test has failed, what the proxies, also those that were killed, say of connections that
// are not encrypted.
func (c *Chain) Plaintext(t *testing.T) {
	t.Helper()
	if !t.Failed() {
		return
	}
	if c.visitor != nil {
		c.visitor.Plaintext(t)
	}
	for _, p := range c.present(t) {
		for _, previous := range []string{"--previous=false", "--previous"} {
			// none before the first
			log, _ := Kubectl("", "-n", c.Namespace, "logs", p.Name, "-c", api.ProxyName, previous)
			for line := range strings.Lines(log) {
				if strings.Contains(line, `"handshake_failure":"not_tls"`) || strings.Contains(line, `"security":"passthrough"`) || strings.Contains(line, `"security":"plaintext"`) {
					t.Logf("%s (%s, %s): %s", p.Name, p.IP, previous, line)
				}
			}
		}
	}
}
