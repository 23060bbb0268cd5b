package cli_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// sources are the folders whose messages a user of the function sees. fn/graph draws what was verified before, and
// prints its own.
var sources = []string{"../api", "../certs", "../cli", "../controlplane", "../hold", "../inject", "../issue", "../lint", "../manifest", "../node", "../pipeline", "../policy", "../retarget", "../seal", "../statediff", "../verify"}

// formatAt is which argument of a call is the format of a message. A closure takes the format first, where the method
// that it stands for has object and field before.
var formatAt = map[string]int{
	".Error": 2, ".ErrorIn": 2, ".Warn": 2, ".fail": 1, ".warn": 0, "fail": 0, "wrong": 0, "fmt.Errorf": 0, "errors.New": 0, "wrongUse": 0,
}

var verb = regexp.MustCompile(`%(\[\d\])?[a-z]`)

// TestErrorsAreDocumented: docs/errors.md holds the words of every error and warning in the source, so that whoever
// searches for one finds the way out.
func TestErrorsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(page)), " ")
	found := 0
	for _, source := range sources {
		err := filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			files := token.NewFileSet()
			tree, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			for message, at := range messages(tree) {
				found++
				if words := leadingWords(message); words != "" && !strings.Contains(text, words) {
					t.Errorf("%s: docs/errors.md says nothing of %q (of %q)", files.Position(at), words, message)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 100 {
		t.Errorf("found %d messages; does this test still read the source rightly?", found)
	}
}

// messages are the formats of a file's messages, and where they stand.
func messages(tree *ast.File) map[string]token.Pos {
	found := map[string]token.Pos{}
	constants := constantsOf(tree)
	ast.Inspect(tree, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		name := ""
		switch f := call.Fun.(type) {
		case *ast.Ident:
			name = f.Name
		case *ast.SelectorExpr:
			name = "." + f.Sel.Name
			if x, ok := f.X.(*ast.Ident); ok && (x.Name == "fmt" || x.Name == "errors") {
				name = x.Name + name
			}
		}
		if at, ok := formatAt[name]; ok && at < len(call.Args) {
			if message := literal(call.Args[at], constants); message != "" {
				found[message] = call.Pos()
			}
		}
		return true
	})
	return found
}

// constantsOf are the string constants of a file, those of functions among them.
func constantsOf(tree *ast.File) map[string]string {
	constants := map[string]string{}
	ast.Inspect(tree, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			for i, value := range spec.Values {
				if text := literal(value, constants); text != "" && text != "%v" {
					constants[spec.Names[i].Name] = text
				}
			}
		}
		return true
	})
	return constants
}

// literal is a string literal, a constant with one, or a sum of some, in which anything else counts as a verb.
func literal(e ast.Expr, constants map[string]string) string {
	switch x := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(x.Value)
		if x.Kind != token.STRING || err != nil {
			return ""
		}
		return text
	case *ast.BinaryExpr:
		return literal(x.X, constants) + literal(x.Y, constants)
	case *ast.Ident:
		if text := constants[x.Name]; text != "" {
			return text
		}
	}
	return "%v"
}

// TestAnnotationsAreDocumented: docs/annotations.md holds every annotation of ours.
func TestAnnotationsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/annotations.md")
	if err != nil {
		t.Fatal(err)
	}
	tree, err := parser.ParseFile(token.NewFileSet(), "../../internal/api/annotations.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for name, annotation := range constantsOf(tree) {
		if !strings.HasSuffix(name, "Annotation") {
			continue
		}
		found++
		if !strings.Contains(string(page), "\n- **`"+annotation+"`**") {
			t.Errorf("docs/annotations.md has no item for %s", annotation)
		}
	}
	if found < 10 {
		t.Errorf("found %d annotations; does this test still read the source rightly?", found)
	}
}

// clause ends where a message goes on to say why, or the way out.
var clause = regexp.MustCompile(`[:;,(?] |\. |: *$`)

// leadingWords are the first words of a format that name the mistake: up to five of the first clause between verbs that
// has two; "" for a format that holds hardly any, as one that only wraps.
func leadingWords(format string) string {
	for _, part := range verb.Split(format, -1) {
		for _, c := range clause.Split(strings.TrimLeft(part, ":;,. )\""), -1) {
			if words := strings.Fields(c); len(words) >= 2 {
				return strings.Trim(strings.Join(words[:min(5, len(words))], " "), ":;,. (\"")
			}
		}
	}
	return ""
}
