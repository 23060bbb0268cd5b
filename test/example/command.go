package example

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
)

// Containerize makes kustomize run the image instead of the binary.
func (e *Example) Containerize(tb testing.TB) {
	tb.Helper()
	e.Edit(tb, "mtls.yaml", func(text string) string {
		return strings.Replace(text, "exec: {path: meshless}", "container: {image: "+api.FnImage+"}", 1)
	})
}

// Verify checks rendered manifests with `meshless verify`.
func (e *Example) Verify(tb testing.TB, rendered string) {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "rendered.yaml")
	if err := os.WriteFile(file, []byte(rendered), 0o600); err != nil {
		tb.Fatal(err)
	}
	e.run(tb, e.program(tb), "verify", filepath.Dir(file))
}

// VerifyDir checks the package as it stands.
func (e *Example) VerifyDir(tb testing.TB) {
	tb.Helper()
	e.run(tb, e.program(tb), "verify", e.Dir)
}

// IssuePackage renders the example as a kpt package.
func (e *Example) IssuePackage(tb testing.TB, now time.Time) {
	tb.Helper()
	e.Issue(tb, now, "--kpt")
}
