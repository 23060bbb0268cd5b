package interop

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// missing skips the test; with CI=true it fails, so that a skip cannot hide there.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format+", and CI=true", args...)
	}
	t.Skipf(format, args...)
}

// program is the path of a program of this machine, or skips, naming the Debian package that has it.
func program(t *testing.T, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, "needs %s: apt-get install %s", name, pkg)
	}
	return path
}

// ghostunnel is the path of the program, which Debian does not have.
func ghostunnel(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("GHOSTUNNEL"); path != "" {
		return path
	}
	home, _ := os.UserHomeDir() // none leaves a relative path, which LookPath refuses
	kbin := cmp.Or(os.Getenv("KBIN"), filepath.Join(home, ".cache/kube-bin"))
	for _, name := range []string{filepath.Join(kbin, "ghostunnel"), "ghostunnel"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	missing(t, "needs ghostunnel as $GHOSTUNNEL, in $KBIN or in PATH; test/interop/ghostunnel.sh builds it")
	return ""
}

// nginx is the path of the program and the directive that loads its stream module, empty where that is compiled in.
func nginx(t *testing.T) (path, load string) {
	t.Helper()
	path = program(t, "nginx", "nginx libnginx-mod-stream")
	built, err := exec.CommandContext(t.Context(), path, "-V").CombinedOutput()
	if err != nil {
		t.Fatalf("nginx -V: %v\n%s", err, built)
	}
	if !strings.Contains(string(built), "--with-stream=dynamic") {
		return path, ""
	}
	module := "ngx_stream_module.so"
	if dir := regexp.MustCompile(`--modules-path=(\S+)`).FindSubmatch(built); dir != nil {
		module = filepath.Join(string(dir[1]), module)
	}
	if _, err := os.Stat(module); err != nil {
		missing(t, "needs nginx's stream module: apt-get install libnginx-mod-stream (%v)", err)
	}
	return path, "load_module " + module + ";"
}
