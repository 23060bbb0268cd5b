package meshless_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// columns is how wide a line of a comment or of prose may be, with tabs of four.
const columns = 120

// TestWidthOfComments: comments can be read beside code, in a terminal and in a review. Directives and words that
// cannot be broken, as addresses, may be wider.
func TestWidthOfComments(t *testing.T) {
	for file := range goFiles(t) {
		lines := strings.Split(read(t, file), "\n")
		forEachComment(t, file, func(first int, text string) {
			for i := range strings.Split(text, "\n") {
				line := lines[first-1+i]
				if i == 0 && !strings.HasPrefix(strings.TrimSpace(line), "/") {
					continue // behind code, whose width gofmt leaves to its author
				}
				if width(line) > columns && len(strings.Fields(line)) > 2 && !strings.HasPrefix(text, "//go:") {
					t.Errorf("%s:%d: a comment of %d columns; at most %d", file, first+i, width(line), columns)
				}
			}
		})
	}
}

// TestSkipsAreAsked: what a test lacks, package program says, so that nothing is left out in silence with CI=true. In
// other words a skip is for what makes no sense here: -short, the race detector, another system.
func TestSkipsAreAsked(t *testing.T) {
	needs := regexp.MustCompile(`\.Skipf?\("needs? |\.Skipf?\(.*not installed`)
	for file := range goFiles(t) {
		if file == "repository_test.go" || strings.HasPrefix(file, "test/program/") || !strings.HasSuffix(file, "_test.go") && !strings.HasPrefix(file, "test/") {
			continue
		}
		for i, line := range strings.Split(read(t, file), "\n") {
			switch {
			case strings.Contains(line, `Getenv("CI")`):
				t.Errorf("%s:%d: asks for CI itself; program.Missing and program.CI do", file, i+1)
			case needs.MatchString(line) && !strings.Contains(line, "control without FIPS"):
				t.Errorf("%s:%d: skips for what it needs; program.Missing fails with CI=true", file, i+1)
			}
		}
	}
}

// generated are the pages that a test writes from the source.
var generated = []string{"docs/reference.md"}

// linkDefinition is a line of Markdown like "[name]: address".
var linkDefinition = regexp.MustCompile(`^\[[^\]]+\]: `)

// TestWidthOfPages: so it is with prose. Headings, tables, blocks of code and definitions of links are of one line.
func TestWidthOfPages(t *testing.T) {
	for _, page := range pages(t) {
		if slices.Contains(generated, page) {
			continue
		}
		fenced := false
		for i, line := range strings.Split(read(t, page), "\n") {
			text := strings.TrimSpace(line)
			if strings.HasPrefix(text, "```") {
				fenced = !fenced
			}
			if fenced || strings.HasPrefix(text, "|") || strings.HasPrefix(text, "#") || linkDefinition.MatchString(line) {
				continue
			}
			if width(line) > columns && len(strings.Fields(line)) > 2 {
				t.Errorf("%s:%d: a line of %d columns; at most %d", page, i+1, width(line), columns)
			}
		}
	}
}

func width(line string) int {
	return utf8.RuneCountInString(strings.ReplaceAll(line, "\t", "    "))
}

// TestDocComments: every exported identifier of the packages says what it is.
func TestDocComments(t *testing.T) {
	for file := range goFiles(t) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range undocumented(tree) {
			t.Errorf("%s: %s has no doc comment", file, name)
		}
	}
}

// undocumented are the exported names of a file without a comment of their own, or of the group that they stand in.
// Methods of types that are not exported, and Error and String, which say the same everywhere, need none.
func undocumented(tree *ast.File) []string {
	var found []string
	note := func(name *ast.Ident, comments ...*ast.CommentGroup) {
		if name.IsExported() && !slices.ContainsFunc(comments, func(c *ast.CommentGroup) bool { return c != nil }) {
			found = append(found, name.Name)
		}
	}
	for _, decl := range tree.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil || isExported(d.Recv.List[0].Type) && d.Name.Name != "Error" && d.Name.Name != "String" {
				note(d.Name, d.Doc)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					note(s.Name, d.Doc, s.Doc, s.Comment)
				case *ast.ValueSpec:
					for _, name := range s.Names {
						note(name, d.Doc, s.Doc, s.Comment)
					}
				}
			}
		}
	}
	return found
}

// isExported tells whether a receiver is of an exported type.
func isExported(receiver ast.Expr) bool {
	if pointer, ok := receiver.(*ast.StarExpr); ok {
		receiver = pointer.X
	}
	name, ok := receiver.(*ast.Ident)
	return !ok || name.IsExported() // what is no name is a generic type
}

// TestExamples: packages that others may want to use show how.
func TestExamples(t *testing.T) {
	for _, folder := range []string{"internal/meshmap", "internal/netset", "internal/svid", "proxy/sidecar"} {
		files, err := filepath.Glob(folder + "/*_test.go")
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(files, func(file string) bool { return strings.Contains(read(t, file), "\nfunc Example") }) {
			t.Errorf("%s has no Example", folder)
		}
	}
}

var (
	address  = regexp.MustCompile(`(https?://|github\.com/)\S+`)
	pageName = regexp.MustCompile(`[\w./-]*\w\.md\b`)
	pageLink = regexp.MustCompile(`\]\(([^)#:\s]+)[^):]*\)`)
)

// TestReferences: comments and pages name nothing that a reader of the repository cannot open. test/env alone looks
// beside the repository, for the corpus.
func TestReferences(t *testing.T) {
	for file := range goFiles(t) {
		forEachComment(t, file, func(line int, text string) {
			if strings.Contains(text, "shared/") && path.Dir(file) != "test/env" {
				t.Errorf("%s:%d: names a folder outside of the repository", file, line)
			}
			for _, name := range pageName.FindAllString(address.ReplaceAllString(text, ""), -1) {
				if !exists(name, path.Join("docs", name), path.Join(path.Dir(file), name)) {
					t.Errorf("%s:%d: there is no %s", file, line, name)
				}
			}
		})
	}
	for _, page := range pages(t) {
		text := read(t, page)
		if strings.Contains(text, "../shared") {
			t.Errorf("%s: names a folder outside of the repository", page)
		}
		for _, link := range pageLink.FindAllStringSubmatch(text, -1) {
			if !exists(path.Join(path.Dir(page), link[1])) {
				t.Errorf("%s: there is no %s", page, link[1])
			}
		}
	}
}

var (
	codeBlock   = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	headingLine = regexp.MustCompile(`(?m)^#+ (.*)$`)
	linkText    = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	anchorLink  = regexp.MustCompile(`\]\(([^)#:\s]*)#([^)\s]+)\)`)
	noAnchor    = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// TestAnchors: links lead to headings that are there, by the names that GitHub gives them.
func TestAnchors(t *testing.T) {
	anchors := map[string]map[string]bool{}
	for _, page := range pages(t) {
		anchors[page] = map[string]bool{}
		for _, heading := range headingLine.FindAllStringSubmatch(codeBlock.ReplaceAllString(read(t, page), ""), -1) {
			name := noAnchor.ReplaceAllString(strings.ToLower(linkText.ReplaceAllString(heading[1], "$1")), "")
			anchors[page][strings.ReplaceAll(name, " ", "-")] = true
		}
	}
	for page := range anchors {
		for _, link := range anchorLink.FindAllStringSubmatch(codeBlock.ReplaceAllString(read(t, page), ""), -1) {
			to := page
			if link[1] != "" {
				to = path.Join(path.Dir(page), link[1])
			}
			if headings, known := anchors[to]; known && !headings[link[2]] {
				t.Errorf("%s: there is no heading %s in %s", page, link[2], to)
			}
		}
	}
}

func exists(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { _, err := os.Stat(name); return err == nil })
}

// forEachComment calls found with each comment of a Go file and the line where it begins.
func forEachComment(t *testing.T, file string, found func(line int, text string)) {
	t.Helper()
	files := token.NewFileSet()
	tree, err := parser.ParseFile(files, file, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range tree.Comments {
		for _, comment := range group.List {
			found(files.Position(comment.Pos()).Line, comment.Text)
		}
	}
}

// TestPins: what CI, the examples' workflows and the action run of others is named by commit, with the version beside
// it, and something keeps it current. Base images are named by a tag that says a version.
func TestPins(t *testing.T) {
	action := regexp.MustCompile(`(?m)^\s*-?\s*uses:\s*(\S+)(.*)$`)
	pinned := regexp.MustCompile(`^[\w.-]+/[\w./-]+@[0-9a-f]{40}$`)
	version := regexp.MustCompile(`^ # v\d+\.\d+\.\d+$`)
	found := 0
	for _, file := range []string{".github/workflows/ci.yml", "examples/workflow/renew.yaml", "examples/flux/ci/github.yaml", "action.yml"} {
		for _, use := range action.FindAllStringSubmatch(read(t, file), -1) {
			if found++; !pinned.MatchString(use[1]) || !version.MatchString(use[2]) {
				t.Errorf("%s: %s%s: want OWNER/NAME@COMMIT # vX.Y.Z", file, use[1], use[2])
			}
		}
	}
	base := regexp.MustCompile(`(?m)^FROM (\S+)`)
	tagged := regexp.MustCompile(`^(scratch|golang:\d+\.\d+-bookworm|debian:bookworm-slim)(@sha256:[0-9a-f]{64})?$`)
	for _, file := range []string{"Dockerfile", "test/env/servers/Dockerfile"} {
		for _, from := range base.FindAllStringSubmatch(read(t, file), -1) {
			if found++; !tagged.MatchString(from[1]) {
				t.Errorf("%s: base image %s", file, from[1])
			}
		}
	}
	updates := read(t, ".github/dependabot.yml")
	modules, err := filepath.Glob("test/*/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	modules = append([]string{"tools/go.mod"}, modules...)
	for i, file := range modules {
		modules[i] = strings.TrimSuffix(file, "/go.mod")
	}
	for _, want := range []string{"package-ecosystem: gomod\n    directories: [/, /" + strings.Join(modules, ", /") + "]",
		"package-ecosystem: github-actions\n    directories: [/, /examples/flux/ci, /examples/workflow]", "package-ecosystem: docker\n    directories: [/, /test/env/servers]"} {
		if found++; !strings.Contains(updates, want) {
			t.Errorf(".github/dependabot.yml lacks %q", want)
		}
	}
	if found < 20 {
		t.Errorf("only %d actions, base images and updates were found", found)
	}
}

// pages are the Markdown files of the repository.
func pages(t *testing.T) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(".", func(file string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(file, ".md") && !strings.Contains(file, "testdata") {
			found = append(found, filepath.ToSlash(file))
		}
		return err
	})
	if err != nil || len(found) == 0 {
		t.Fatalf("no pages found (%v)", err)
	}
	return found
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
