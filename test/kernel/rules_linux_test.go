package kernel

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/init/apply"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/test/lab"
)

const db = "StatefulSet/acme-shop/acme-db"

// inNamespace runs a program, which is in the namespace as a privileged container of the pod would be.
func inNamespace(n *lab.Namespace, program string, args ...string) error {
	return n.Do(func() error {
		if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s %s: %w: %s", program, args, err, out)
		}
		return nil
	})
}

// TestInitNeverRan: a kubelet that starts sidecars and apps although init has not run, or something that has taken its
// rules away by then, gets no app: the sidecar's start fails and says why.
func TestInitNeverRan(t *testing.T) {
	for name, mode := range map[string]string{"native sidecar": "", "plain container": "  sidecar: {mode: Container}\n"} {
		t.Run(name, func(t *testing.T) {
			r := applyShop(t, lab.NewMeshless(t, nil), mode, time.Now())
			t.Run("init never ran", func(t *testing.T) {
				p := refusesToStart(t, r, lab.PodOptions{WithoutInit: true})
				if log := p.Container(api.ProxyName).Log(); !strings.Contains(log, "meshless-init of the same release") {
					t.Errorf("the proxy says\n%s", log)
				}
			})
			for harm, says := range map[string]string{"flush ruleset": "the rules of meshless-init are not in force", "flush chain inet meshless outbound": `"chain":"output"`, "flush chain inet meshless refused": `"chain":"guard"`} {
				t.Run(harm, func(t *testing.T) {
					p := refusesToStart(t, r, lab.PodOptions{Within: 5 * time.Second, BeforeProxy: func(n *lab.Namespace) error { return inNamespace(n, "nft", strings.Fields(harm)...) }})
					if log := p.Container(api.ProxyName).Log(); !strings.Contains(log, says) || !strings.Contains(log, `"level":"ERROR"`) {
						t.Errorf("the proxy says\n%s\nwant %q", log, says)
					}
				})
			}
		})
	}
}

// refusesToStart starts a db that must not come up, and of which no app may run.
func refusesToStart(t *testing.T, r *running, options lab.PodOptions) *lab.Pod {
	t.Helper()
	p, err := r.TryStart(db, options)
	if err == nil {
		t.Fatal("the pod is up")
	}
	t.Log(err)
	if app := p.Container("db"); app != nil {
		t.Error("its app was started")
	}
	return p
}

// TestRulesFlushed: somebody takes the rules of a running pod away. Its proxy is not ready and says why, in its answer,
// in the log and in metrics. What is open goes on, but where nothing is left that
// tracks connections. When init has run again, the pod is ready.
func TestRulesFlushed(t *testing.T) {
	r := applyShop(t, lab.NewMeshless(t, nil), "", time.Now())
	r.db = r.StartPod(db)
	r.api = r.StartPod("Deployment/acme-shop/acme-api")
	for _, test := range []struct{ harm, chain string }{
		{"flush ruleset", api.ProxyName}, {"flush chain inet meshless prerouting", "prerouting"}, {"flush chain inet meshless output", "output"}, {"flush chain inet meshless guard", "guard"},
	} {
		t.Run(test.harm, func(t *testing.T) {
			conn, in := r.toDB(t)
			if err := inNamespace(r.db.NS, "nft", strings.Fields(test.harm)...); err != nil {
				t.Fatal(err)
			}
			err := awaitProbe(t, r.db, func(err error) bool { return err != nil })
			if !strings.Contains(err.Error(), "the rules of meshless-init are not in force") || test.chain != api.ProxyName && !strings.Contains(err.Error(), "(chain "+test.chain+")") {
				t.Errorf("the probe says %v", err)
			}
			if metrics := metricsOf(t, r.db); test.chain != api.ProxyName && !strings.Contains(metrics, fmt.Sprintf("meshless_redirect_missing{chain=%q} 1", test.chain)) {
				t.Errorf("the metrics do not say it:\n%s", metrics)
			}
			if test.chain != api.ProxyName { // else nothing tracks connections any more, and the kernel resets them
				put(t, conn, in, "order-without-"+test.chain)
			}
			if err := r.db.NS.Do(func() error { return apply.Apply(podplan.InitArgs{ProxyUID: api.DefaultUID}, io.Discard) }); err != nil {
				t.Fatal(err)
			}
			if err := awaitProbe(t, r.db, func(err error) bool { return err == nil }); err != nil {
				t.Error(err)
			}
			if metrics := metricsOf(t, r.db); strings.Contains(metrics, `meshless_redirect_missing{chain="`+test.chain+`"} 1`) {
				t.Errorf("the metrics say that the rules are missing still:\n%s", metrics)
			}
		})
	}
	log := r.db.Container(api.ProxyName).Log()
	for _, line := range []string{"the rules of meshless-init are not in force", "the rules of meshless-init are in force again"} {
		if strings.Count(log, line) < 3 {
			t.Errorf("the log lacks %q:\n%s", line, log)
		}
	}
}

// awaitProbe asks as the kubelet does, until the answer is as wanted.
func awaitProbe(t *testing.T, p *lab.Pod, wanted func(error) bool) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		err := p.Probe(ctx, api.ProxyName, "readinessProbe")
		if wanted(err) {
			return err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the probe says %v", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func metricsOf(t *testing.T, p *lab.Pod) string {
	t.Helper()
	answer, err := p.HTTP().Get(fmt.Sprintf("http://%s/metrics", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), api.MetricsPort)))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Fatal(answer.Status)
	}
	var lines strings.Builder
	for scanner := bufio.NewScanner(answer.Body); scanner.Scan(); {
		if strings.HasPrefix(scanner.Text(), "meshless_redirect") {
			lines.WriteString(scanner.Text() + "\n")
		}
	}
	return lines.String()
}
