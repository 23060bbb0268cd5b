package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/test/lab"
	"github.com/meshless-dev/meshless/test/program"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// installed is the path of a program of this machine, or skips, naming the Debian package that has it.
func installed(t *testing.T, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		program.Missing(t, "%s: apt-get install %s", name, pkg)
	}
	return path
}

// ghostunnel is the path of the program, which Debian does not have.
func ghostunnel(t *testing.T) string {
	t.Helper()
	return program.Find(t, "ghostunnel", "test/interop/ghostunnel.sh builds it")
}

// nginx is the path of the program and the directive that loads its stream module, empty where that is compiled in.
func nginx(t *testing.T) (path, load string) {
	t.Helper()
	path = installed(t, "nginx", "nginx libnginx-mod-stream")
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
		program.Missing(t, "nginx's stream module: apt-get install libnginx-mod-stream (%v)", err)
	}
	return path, "load_module " + module + ";"
}
