// Package program gives tests the programs that they run: those of this repository, built once for a run of tests, and
// those of others, which scripts build or people install. A test whose program is missing is skipped; with CI=true it
// fails, so that a skip cannot hide there.
package program

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// module is the path that programs are built from, so that tests of any folder build the same.
const module = "github.com/meshless-dev/meshless/"

var built = struct {
	sync.Mutex
	dir    string
	errors map[string]error // by package
}{errors: map[string]error{}}

// Main is the TestMain of a package whose tests use Built; it returns the exit code.
func Main(m *testing.M) int {
	dir, err := os.MkdirTemp("", "meshless-programs-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	built.dir = dir
	return m.Run()
}

// Built is the path of a program of the repository, such as "cmd/meshless" or "test/app". It is static as in the
// images, since containers of the tests hold nothing else, and lies beside the others that were built.
func Built(tb testing.TB, pkg string) string {
	tb.Helper()
	built.Lock()
	defer built.Unlock()
	if built.dir == "" {
		tb.Fatal("the package of this test has no TestMain with program.Main")
	}
	binary := filepath.Join(built.dir, filepath.Base(pkg))
	err, done := built.errors[pkg]
	if !done {
		cmd := exec.Command("go", "build", "-o", binary, module+pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, failed := cmd.CombinedOutput(); failed != nil {
			err = fmt.Errorf("go build %s: %w\n%s", pkg, failed, out)
		}
		built.errors[pkg] = err
	}
	if err != nil {
		tb.Fatal(err)
	}
	return binary
}

// Meshless is the path of the meshless command.
func Meshless(tb testing.TB) string {
	tb.Helper()
	return Built(tb, "cmd/meshless")
}

// WithMeshless is the environment of this process with the meshless command on the PATH.
func WithMeshless(tb testing.TB) []string {
	tb.Helper()
	return append(os.Environ(), "PATH="+filepath.Dir(Meshless(tb))+string(os.PathListSeparator)+os.Getenv("PATH"))
}

// Kustomize is the path of $KUSTOMIZE, or of the version that go.mod names as a tool.
func Kustomize(tb testing.TB) string {
	tb.Helper()
	if path := os.Getenv("KUSTOMIZE"); path != "" {
		return path
	}
	// builds it, and prints where it is
	out, err := exec.CommandContext(tb.Context(), "go", "tool", "-n", "kustomize").CombinedOutput()
	if err != nil {
		tb.Fatalf("go tool kustomize: %v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// Candidates are where a program of others may be: the path in the variable of its name ($FLUX_DECRYPT for
// flux-decrypt), the folder $KBIN (default ~/.cache/kube-bin), and the PATH.
func Candidates(name string) []string {
	home, _ := os.UserHomeDir() // none leaves a relative path, which LookPath refuses
	kbin := cmp.Or(os.Getenv("KBIN"), filepath.Join(home, ".cache/kube-bin"))
	return []string{os.Getenv(strings.ToUpper(strings.ReplaceAll(name, "-", "_"))), filepath.Join(kbin, name), name}
}

// Lookup is the first of Candidates that is there, or "".
func Lookup(name string) string {
	for _, candidate := range Candidates(name) {
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	return ""
}

// Find is Lookup, or skips the test; how says what brings the program.
func Find(tb testing.TB, name, how string) string {
	tb.Helper()
	path := Lookup(name)
	if path == "" {
		Missing(tb, "%s, as $%s, in $KBIN or in PATH: %s", name, strings.ToUpper(strings.ReplaceAll(name, "-", "_")), how)
	}
	return path
}

// FindForeign is Lookup, or skips the test, with CI=true as well: why says why nothing of this repository can bring the
// program.
func FindForeign(tb testing.TB, name, why string) string {
	tb.Helper()
	path := Lookup(name)
	if path == "" {
		tb.Skipf("is for machines with %s, in $KBIN or in PATH: %s", name, why)
	}
	return path
}

// InHistory skips the test where the checkout does not have the commit, as a shallow clone: nothing on a machine can
// bring it back, so that holds with CI=true as well.
func InHistory(tb testing.TB, commit string) {
	tb.Helper()
	if err := exec.CommandContext(tb.Context(), "git", "cat-file", "-e", commit+"^{commit}").Run(); err != nil {
		tb.Skipf("needs commit %s, which this checkout does not have: clone the repository with its history", commit)
	}
}

// CI tells whether this is a run in which nothing may be left out.
func CI() bool { return os.Getenv("CI") == "true" }

// Missing skips the test since it needs something; with CI=true it fails it.
func Missing(tb testing.TB, format string, args ...any) {
	tb.Helper()
	if CI() {
		tb.Fatalf("needs "+format+", and CI=true", args...)
	}
	tb.Skipf("needs "+format, args...)
}

// Output is what a program printed. It may be read while the program writes.
type Output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer; it never fails.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// String is all that was printed so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
