package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// checker knows the types of a package's source, and of changed source.
type checker struct {
	set      *token.FileSet
	importer types.Importer
	texts    map[string][]byte // by path
	info     types.Info
	files    map[string]*ast.File
	pkg      *types.Package
}

// load reads and checks the package in a folder.
func load(module, folder string) (*checker, error) {
	c := &checker{set: token.NewFileSet(), texts: map[string][]byte{}, info: types.Info{Types: map[ast.Expr]types.TypeAndValue{}}}
	list := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}}={{.Export}}", "./"+folder)
	list.Dir, list.Stderr = module, os.Stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", list, err)
	}
	exports := map[string]string{}
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), "=")
		exports[path] = file
	}
	c.importer = importer.ForCompiler(c.set, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	paths, err := filepath.Glob(filepath.Join(module, folder, "*.go"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		if c.texts[path], err = os.ReadFile(path); err != nil {
			return nil, err
		}
	}
	c.files, c.pkg, err = c.check("", nil, &c.info)
	return c, err
}

// check checks the package with one file replaced.
func (c *checker) check(path string, text []byte, info *types.Info) (map[string]*ast.File, *types.Package, error) {
	files := map[string]*ast.File{}
	var list []*ast.File
	for p, original := range c.texts {
		if p == path {
			original = text
		}
		f, err := parser.ParseFile(c.set, p, original, parser.SkipObjectResolution)
		if err != nil {
			return nil, nil, err
		}
		files[p], list = f, append(list, f)
	}
	config := types.Config{Importer: c.importer}
	pkg, err := config.Check("mutated", c.set, list, info)
	return files, pkg, err
}

// compiles tells whether a mutant is valid Go. A variable or an import that is no longer used does not matter.
func (c *checker) compiles(m mutant) bool {
	_, _, err := c.check(m.file, m.source(c.texts[m.file]), nil)
	return err == nil || strings.Contains(err.Error(), "declared and not used") || strings.Contains(err.Error(), "imported and not used")
}

// typeOf is the type of an expression as the package's source names it.
func (c *checker) typeOf(e ast.Expr) string {
	return types.TypeString(types.Default(c.info.Types[e].Type), func(p *types.Package) string {
		if p == c.pkg {
			return ""
		}
		return p.Name()
	})
}

// kind is how a mutant can stand beside the original in one program.
type kind int

const (
	alone     kind = iota // it cannot: of a constant, or of a case
	boolean               // an expression that is true or false, evaluated no further than it has to be
	value                 // another expression
	statement             // that is left out
)

// switched is a file with all mutants in it that can stand beside the original. One is in force at a time, whose number
// the program finds in its environment.
func switched(original []byte, mutants []mutant) []byte {
	return rewrite(original, 0, len(original), mutants)
}

// rewrite is the text from one offset to another. The mutants are in there, sorted by where they begin; of those that
// begin together the longer ones come first.
func rewrite(text []byte, from, to int, in []mutant) []byte {
	var out bytes.Buffer
	at := from
	for len(in) > 0 {
		first := in[0]
		same, inner := 0, 0
		for _, m := range in {
			if m.from == first.from && m.to == first.to {
				same++
			} else if m.from < first.to {
				inner++
			}
		}
		body := rewrite(text, first.from, first.to, in[same:same+inner])
		for _, m := range in[:same] {
			body = wrap(m, body)
		}
		out.Write(text[at:first.from])
		out.Write(body)
		at, in = first.to, in[same+inner:]
	}
	out.Write(text[at:to])
	return out.Bytes()
}

func wrap(m mutant, body []byte) []byte {
	switch m.kind {
	case boolean:
		return fmt.Appendf(nil, "(mutant(%d) && (%s) || !mutant(%d) && (%s))", m.number, m.with, m.number, body)
	case value:
		return fmt.Appendf(nil, "func() %s { if mutant(%d) { return %s }; return %s }()", m.typ, m.number, m.with, body)
	}
	return fmt.Appendf(nil, "if !mutant(%d) { %s }", m.number, body)
}

// switchFile is added to the package.
const switchFile = `package %s

import (
	"os"
	"strconv"
)

var mutantInForce, _ = strconv.Atoi(os.Getenv(%q))

func mutant(n int) bool { return mutantInForce == n }
`
