// Package meshless_test holds the repository against its own architecture. ARCHITECTURE.md says why.
package meshless_test

import (
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
	"fn": {{"report", "node"}, {"api/v1alpha1"}, {"manifest"}, {"certs", "seal", "controlplane"}, {"inject", "issue"}, {"verify", "statediff"}, {"pipeline", "graph"}, {"cli"}},
	"proxy": {{"sandbox"}, {"config"}, {"identity"}, {"policy"}, {"telemetry"}, {"listen"}, {"record"}, {"resolve"}, {"live"}, {"relay"},
		{"inbound", "outbound"}, {"admin"}, {"sidecar"}},
	"init":     {{"rules"}, {"apply"}},
	"internal": {{"api"}, {"netset"}, {"meshmap"}, {"svid"}, {"podplan"}},
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

// TestTopLevel: the top level of the repository is fixed.
func TestTopLevel(t *testing.T) {
	want := []string{
		".ci", ".dockerignore", ".git", ".gitignore", ".krmignore", "ARCHITECTURE.md", "Dockerfile", "Kptfile", "LICENSE", "Makefile", "README.md", "arch_test.go",
		"bin", "cmd", "docs", "examples", "fn", "go.mod", "go.sum", "init", "internal", "proxy", "test",
	}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !slices.Contains(want, entry.Name()) {
			t.Errorf("%s is new at the top level", entry.Name())
		}
	}
}

// goFiles are the Go files of the repository with the packages of this module that each imports, without the module's
// path.
func goFiles(t *testing.T) map[string][]string {
	t.Helper()
	files := map[string][]string{}
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") || file == "arch_test.go" {
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
