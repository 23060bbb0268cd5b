package kernel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/lab"
	"github.com/meshless-dev/meshless/test/program"
)

// iptablesFolders are the parts of Debian's iptables as an image holds them, with the programs of one variant only, so
// that the test says which one runs.
func iptablesFolders(t *testing.T, variant string) map[string]string {
	t.Helper()
	lab.Require(t)
	bin := t.TempDir()
	for _, name := range []string{"iptables", "ip6tables"} {
		for _, verb := range []string{"restore", "save"} {
			tool := name + "-" + variant + "-" + verb
			data, err := os.ReadFile(filepath.Join("/usr/sbin", tool)) // all are one binary, which looks at its name
			if err != nil {
				program.Missing(t, "both variants of iptables: apt-get install iptables: %v", err)
			}
			if err := os.WriteFile(filepath.Join(bin, tool), data, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	return map[string]string{"/usr/sbin": bin, "/usr/lib": "/usr/lib", "/lib": "/usr/lib", "/lib64": "/lib64"}
}

// TestIPTables walks the shop with the back end of iptables, in each variant: the containers run as the manifest says,
// with a read-only root and no capability but those that it adds.
func TestIPTables(t *testing.T) {
	for _, variant := range []string{"nft", "legacy"} {
		t.Run(variant, func(t *testing.T) {
			r := startShopIn(t, lab.NewMeshless(t, iptablesFolders(t, variant)), "  init: {backend: IPTables}\n", time.Now())
			for _, p := range []*lab.Pod{r.db, r.api, r.web} {
				printed := p.Container(api.InitName).Log()
				for _, want := range []string{"iptables-" + variant + ", as --backend=IPTables says", "# ip6tables-" + variant, "-A MESHLESS_PREROUTING", "-I OUTPUT -p tcp -j MESHLESS_OUTPUT"} {
					if !strings.Contains(printed, want) {
						t.Errorf("%s: init printed no %q:\n%s", p.Name, want, printed)
					}
				}
			}
			t.Run("IPv4 requests arrive encrypted", func(t *testing.T) { r.testEncryption(t, 4) })
			t.Run("IPv6 requests arrive encrypted", func(t *testing.T) { r.testEncryption(t, 6) })
			t.Run("members use TLS on a permissive port", r.testPermissive)
			t.Run("strict port refuses strangers", r.testStrangers)
			t.Run("policy refuses members", r.testPolicy)
			t.Run("client refuses wrong server", r.testWrongServer)
			t.Run("plain destinations stay reachable", r.testPassthrough)
			t.Run("job ends by itself", r.testJob)
			t.Run("open ports are open, the others are not", r.testOpenPorts)
			t.Run("ports bound to loopback stay private", r.testLoopbackOnly)
			t.Run("forged destinations are refused", r.testForgedDestination)
			t.Run("own Service passes the proxy", r.testOwnService)
			t.Run("probes tell the truth", r.testProbes)
			t.Run("SIGTERM ends cleanly", r.testStop)
		})
	}
}
