package kernel

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/lab"
	"github.com/meshless-dev/meshless/test/program"
)

// TestSandbox looks at proxies that have confined themselves: the kernel says so, and they work on, through a renewal
// too.
func TestSandbox(t *testing.T) {
	r := applyShop(t, lab.NewMeshless(t, nil), "", time.Now().Add(-20*24*time.Hour)) // the leaves are valid, and due
	r.out = r.AddPod("outside", "client")
	r.db = r.StartPod("StatefulSet/acme-shop/acme-db")
	r.api = r.StartPod("Deployment/acme-shop/acme-api")
	t.Run("every thread is confined", r.testThreads)
	t.Run("traffic passes", func(t *testing.T) { r.order(t, "before-renewal") })
	t.Run("metrics are complete", r.testProcessMetrics)
	t.Run("files are read again", r.testReload)
}

// testThreads reads what the kernel and the proxy itself say.
func (r *running) testThreads(t *testing.T) {
	for _, p := range []*lab.Pod{r.db, r.api} {
		proxy := p.Container(api.ProxyName)
		all, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", proxy.PID()))
		if err != nil || len(all) == 0 {
			t.Fatalf("%s: %d threads, %v", p.Name, len(all), err)
		}
		for _, file := range all {
			status, err := os.ReadFile(file)
			if err != nil {
				continue // the thread has ended
			}
			for _, line := range []string{"Seccomp:\t2", "NoNewPrivs:\t1"} {
				if !bytes.Contains(status, []byte("\n"+line+"\n")) {
					t.Errorf("%s: %s lacks %q:\n%s", p.Name, file, line, status)
				}
			}
		}
		report, ok := confined(proxy.Log())
		if !ok || !report.Seccomp {
			t.Errorf("%s: the proxy reports %+v (found %t)", p.Name, report, ok)
		}
		if report.Landlock == 0 && program.CI() {
			t.Errorf("%s: without Landlock (%s), and CI=true: use a kernel that has it", p.Name, report.Missing)
		}
	}
}

// report is the line in which a proxy says what confines it.
type report struct {
	Message  string `json:"msg"`
	Landlock int    `json:"landlock_abi"`
	Seccomp  bool   `json:"seccomp"`
	Missing  string `json:"missing"`
}

func confined(log string) (r report, ok bool) {
	for line := range strings.Lines(log) {
		if json.Unmarshal([]byte(line), &r) == nil && strings.HasPrefix(r.Message, "confined") {
			return r, true
		}
	}
	return report{}, false
}

// order stores an order from api's app in db's, through both proxies.
func (r *running) order(t *testing.T, text string) {
	t.Helper()
	conn, in := r.toDB(t)
	defer conn.Close()
	put(t, conn, in, text)
}

// testProcessMetrics wants what the proxy reads under /proc.
func (r *running) testProcessMetrics(t *testing.T) {
	resp, err := r.out.HTTP().Get(fmt.Sprintf("http://%s:%d/metrics", r.api.IP4, api.MetricsPort))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("metrics: %s", resp.Status)
	}
	found := map[string]bool{}
	lines := bufio.NewScanner(io.LimitReader(resp.Body, 1<<20))
	for lines.Scan() {
		name, _, _ := strings.Cut(lines.Text(), " ")
		found[name] = true
	}
	for _, want := range []string{"process_cpu_seconds_total", "process_open_fds", "process_max_fds", "process_resident_memory_bytes",
		"process_start_time_seconds", "process_network_receive_bytes_total", "go_goroutines"} {
		if !found[want] {
			t.Errorf("no metric %s among %d", want, len(found))
		}
	}
}

// testReload renews the leaves and swaps the volumes, as the kubelet does: a confined proxy must see the new ones.
func (r *running) testReload(t *testing.T) {
	at := netip.AddrPortFrom(r.db.IP4, 5432)
	before := servedLeaf(t, r.out, at)
	r.shop.Issue(t, time.Now())
	r.objects = r.render(t)
	if err := r.Apply(r.objects); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*lab.Pod{r.db, r.api} {
		if err := p.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	awaitOther(t, before, func() *x509.Certificate { return servedLeaf(t, r.out, at) })
	r.order(t, "after-renewal")
}
