// Package meshless_test holds the repository against its own architecture. ARCHITECTURE.md says why.
package meshless_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/meshless-dev/meshless/"

// rooms lists the packages of each program in the order in which data flows: a room may import earlier ones, never
// later ones. Rooms that stand in one entry must not import each other.
var rooms = map[string][][]string{
	"fn": {{"node"}, {"report"}, {"rewrite"}, {"api/v1alpha1"}, {"podspec"}, {"manifest"}, {"policy", "lint", "certs", "seal", "controlplane"}, {"admission", "retarget"}, {"inject", "issue"}, {"hold"}, {"verify", "statediff"}, {"pipeline", "graph", "kustomize"}, {"meshdiff"}, {"cli"}},
	"proxy": {{"budget", "epoll", "record"}, {"relay"}, {"sandbox", "redirect"}, {"files"}, {"identity"}, {"authz"}, {"reason"}, {"telemetry"}, {"listen"}, {"destination"},
		{"loopback"}, {"nameserver"},
		{"registry"}, {"connection"}, {"admin"}, {"sidecar"}},
	"init":     {{"rules"}, {"apply", "resolver"}},
	"internal": {{"private"}, {"api"}, {"netset"}, {"clientaddr"}, {"meshmap"}, {"svid"}, {"podplan"}},
}

// TestImports: programs import internal and never each other, and within a program imports follow the order of the
// rooms.
func TestImports(t *testing.T) {
	for file, imports := range goFiles(t) {
		program, room, ok := locate(path.Dir(file))
		if !ok {
			continue // cmd, examples, test and this file may look at everything
		}
		at := position(program, room)
		if at < 0 {
			t.Errorf("%s: the room %s/%s is not in the plan of this test", file, program, room)
			continue
		}
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, imported := range imports {
			other, otherRoom, ok := locate(imported)
			switch {
			case !ok:
				t.Errorf("%s imports %s", file, imported)
			case other == "internal" && program != "internal":
			case other != program:
				t.Errorf("%s imports %s, which is another program's", file, imported)
			case otherRoom != room && position(other, otherRoom) >= at:
				t.Errorf("%s imports %s, which is a later room", file, imported)
			}
		}
	}
}

// locate splits a folder into program and room.
func locate(folder string) (program, room string, ok bool) {
	program, room, _ = strings.Cut(folder, "/")
	_, ok = rooms[program]
	return program, room, ok
}

func position(program, room string) int {
	return slices.IndexFunc(rooms[program], func(entry []string) bool { return slices.Contains(entry, room) })
}

// TestLeaves: who audits how bytes are moved and protected needs to read these rooms alone.
func TestLeaves(t *testing.T) {
	leaves := []string{"proxy/budget", "proxy/epoll", "proxy/record", "proxy/relay"}
	for file := range goFiles(t) {
		if !slices.Contains(leaves, path.Dir(file)) || strings.HasSuffix(file, "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range tree.Imports {
			imported := strings.Trim(spec.Path.Value, `"`)
			room, ours := strings.CutPrefix(imported, module)
			domain, _, _ := strings.Cut(imported, "/")
			if ours && !slices.Contains(leaves, room) ||
				!ours && strings.Contains(domain, ".") && !strings.HasPrefix(imported, "golang.org/x/sys/") && !strings.HasPrefix(imported, "golang.org/x/crypto/") {
				t.Errorf("%s imports %s", file, imported)
			}
		}
	}
}

// TestGOMAXPROCS: setting it ends the runtime's own following of the container's CPU limit, so one place does it, and
// follows the limit instead.
func TestGOMAXPROCS(t *testing.T) {
	const allowed = "proxy/sidecar/processors.go"
	found := false
	for file := range goFiles(t) {
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			name, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || name.Sel.Name != "GOMAXPROCS" || len(call.Args) != 1 {
				return true
			}
			if n, ok := call.Args[0].(*ast.BasicLit); ok && n.Value == "0" {
				return true
			}
			found = found || file == allowed
			if file != allowed {
				t.Errorf("%s sets GOMAXPROCS", file)
			}
			return true
		})
	}
	if !found {
		t.Errorf("%s does not set GOMAXPROCS: this test finds nothing", allowed)
	}
}

// TestPackageComments: every package says what it is for, how it is used and what it promises.
func TestPackageComments(t *testing.T) {
	documented := map[string]bool{}
	for file := range goFiles(t) {
		folder := path.Dir(file)
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		documented[folder] = documented[folder] || tree.Doc != nil
	}
	for folder, ok := range documented {
		if !ok {
			t.Errorf("the package in %s has no comment", folder)
		}
	}
}

// TestTopLevel: what the repository needs is there, and code stays in its rooms. Other files are welcome.
func TestTopLevel(t *testing.T) {
	for _, name := range []string{
		".ci/run", ".dockerignore", ".github/CODEOWNERS", ".gitignore", ".krmignore", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md",
		"Dockerfile", "Kptfile", "LICENSE", "Makefile", "README.md", "SECURITY.md", "docs", "go.mod", "go.sum", "staticcheck.conf",
	} {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
	folders := []string{"cmd", "examples", "fn", "init", "internal", "proxy", "test"}
	for file := range goFiles(t) {
		folder, _, nested := strings.Cut(file, "/")
		if nested && !slices.Contains(folders, folder) || !nested && !strings.HasSuffix(file, "_test.go") {
			t.Errorf("%s: a new top-level package; code belongs into one of %s", file, strings.Join(folders, ", "))
		}
	}
}

// goFiles are the Go files of the repository with the packages of this module that each imports, without the module's
// path.
func goFiles(t *testing.T) map[string][]string {
	t.Helper()
	files := map[string][]string{}
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") {
			return err
		}
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		files[filepath.ToSlash(file)] = nil
		for _, spec := range tree.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if room, ours := strings.CutPrefix(imported, module); ours {
				files[filepath.ToSlash(file)] = append(files[filepath.ToSlash(file)], room)
			}
		}
		return nil
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("no Go files found (%v)", err)
	}
	return files
}
