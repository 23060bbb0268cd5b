package main

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// mutant is one change of a source file.
type mutant struct {
	number   int
	file     string // path
	from, to int    // bytes that are replaced
	with     string
	name     string // file, function and change: the same as long as the code there is
	kind     kind
	typ      string // of a value
}

// source is the mutated file.
func (m mutant) source(original []byte) []byte {
	return append(append(bytes.Clone(original[:m.from]), m.with...), original[m.to:]...)
}

// mutants are all changes of a package's files that are not tests, by file and place.
func mutants(c *checker) (all []mutant) {
	for _, path := range slices.Sorted(maps.Keys(c.files)) {
		m := &mutator{checker: c, path: path, text: c.texts[path]}
		for _, d := range c.files[path].Decls {
			m.declaration(d)
		}
		// of those in one place the expressions come first, and a value that is an error last
		sort.SliceStable(m.found, func(i, j int) bool {
			a, b := m.found[i], m.found[j]
			return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(b.to, a.to), cmp.Compare(a.kind, b.kind), cmp.Compare(len(b.typ), len(a.typ))) < 0
		})
		all = append(all, m.found...)
	}
	times := map[string]int{}
	for i := range all {
		all[i].number = i + 1
		if times[all[i].name]++; times[all[i].name] > 1 {
			all[i].name += fmt.Sprintf(" #%d", times[all[i].name])
		}
	}
	return all
}

// mutator collects the mutants of a file.
type mutator struct {
	*checker
	path      string
	text      []byte
	function  string
	errors    bool // the function's last result is an error
	constants [][2]token.Pos
	found     []mutant
}

func (m *mutator) declaration(d ast.Decl) {
	m.function, m.errors = "declarations", false
	switch d := d.(type) {
	case *ast.FuncDecl:
		m.function, m.errors = d.Name.Name, returnsError(d.Type)
	case *ast.GenDecl:
		if d.Tok == token.IMPORT {
			return
		}
	}
	ast.Inspect(d, m.visit)
}

func returnsError(f *ast.FuncType) bool {
	if f.Results == nil {
		return false
	}
	last, ok := f.Results.List[len(f.Results.List)-1].Type.(*ast.Ident)
	return ok && last.Name == "error"
}

func (m *mutator) offset(p token.Pos) int { return m.set.Position(p).Offset }

func (m *mutator) of(n ast.Node) string { return string(m.text[m.offset(n.Pos()):m.offset(n.End())]) }

// replace adds a mutant of a node.
func (m *mutator) replace(n ast.Node, with string, k kind, typ string) {
	if m.function == "declarations" || slices.ContainsFunc(m.constants, func(c [2]token.Pos) bool { return c[0] <= n.Pos() && n.End() <= c[1] }) {
		k = alone
	}
	name := fmt.Sprintf("%s %s: %s => %s", filepath.Base(m.path), m.function, oneLine(m.of(n)), oneLine(with))
	m.found = append(m.found, mutant{file: m.path, from: m.offset(n.Pos()), to: m.offset(n.End()), with: with, name: strings.TrimSpace(name), kind: k, typ: typ})
}

// expression adds a mutant of an expression.
func (m *mutator) expression(e ast.Expr, with string) {
	typ := m.typeOf(e)
	k := value
	if typ == "bool" {
		k = boolean
	}
	m.replace(e, with, k, typ)
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 70 {
		s = s[:67] + "..."
	}
	return s
}

// operators are what becomes of each.
var operators = map[token.Token][]string{
	token.EQL: {"!="}, token.NEQ: {"=="}, token.LSS: {"<=", ">="}, token.LEQ: {"<", ">"}, token.GTR: {">=", "<="}, token.GEQ: {">", "<"},
	token.LAND: {"||"}, token.LOR: {"&&"}, token.ADD: {"-"}, token.SUB: {"+"}, token.MUL: {"/"}, token.QUO: {"*"},
	token.OR: {"&"}, token.AND: {"|"}, token.XOR: {"|"}, token.SHL: {">>"}, token.SHR: {"<<"},
}

func (m *mutator) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.GenDecl:
		m.constants = append(m.constants, [2]token.Pos{n.Pos(), n.End()})
	case *ast.ArrayType:
		m.constants = append(m.constants, [2]token.Pos{n.Pos(), n.End()})
	case *ast.BinaryExpr:
		for _, with := range operators[n.Op] {
			m.expression(n, m.of(n.X)+" "+with+" "+m.of(n.Y))
		}
	case *ast.BasicLit:
		m.literal(n)
	case *ast.Ident:
		if with := map[string]string{"true": "false", "false": "true"}[n.Name]; with != "" {
			m.expression(n, with)
		}
	case *ast.UnaryExpr:
		if n.Op == token.NOT {
			m.expression(n, m.of(n.X))
		}
	case *ast.CallExpr:
		if name, ok := n.Fun.(*ast.Ident); ok && name.Name == "localError" { // another alert
			m.expression(n, "localError(1+"+m.of(n.Args[0])+")")
		}
	case *ast.IfStmt:
		m.condition(n.Cond)
	case *ast.ForStmt:
		if n.Cond != nil {
			m.expression(n.Cond, "("+m.of(n.Cond)+") && false")
		}
	case *ast.SwitchStmt:
		m.cases(n)
	case *ast.BlockStmt:
		m.drop(n.List)
	case *ast.CaseClause:
		m.drop(n.Body)
	case *ast.ReturnStmt:
		if last := len(n.Results) - 1; m.errors && last >= 0 && len(n.Results) > 0 && m.of(n.Results[last]) != "nil" && m.typeOf(n.Results[last])[0] != '(' {
			m.replace(n.Results[last], "nil", value, "error")
		}
	}
	return true
}

// literal makes a number one more and one less.
func (m *mutator) literal(n *ast.BasicLit) {
	if n.Kind != token.INT {
		return
	}
	v, err := strconv.ParseInt(n.Value, 0, 64)
	if err != nil {
		return
	}
	m.expression(n, strconv.FormatInt(v+1, 10))
	if v > 0 {
		m.expression(n, strconv.FormatInt(v-1, 10))
	}
}

// condition makes it always false and always true, and keeps what it does beside that.
func (m *mutator) condition(c ast.Expr) {
	m.expression(c, "("+m.of(c)+") && false")
	m.expression(c, "("+m.of(c)+") || true")
}

// cases makes each case of a switch without a tag never and always match, and removes those of the others.
func (m *mutator) cases(n *ast.SwitchStmt) {
	for _, s := range n.Body.List {
		c := s.(*ast.CaseClause)
		switch {
		case n.Tag == nil:
			for _, e := range c.List {
				m.condition(e)
			}
		case len(c.List) > 0:
			m.replace(c, "", alone, "")
		}
	}
}

// drop leaves out each statement that can be.
func (m *mutator) drop(list []ast.Stmt) {
	for _, s := range list {
		switch s := s.(type) {
		case *ast.ExprStmt, *ast.IncDecStmt:
		case *ast.AssignStmt:
			if s.Tok == token.DEFINE {
				continue
			}
		case *ast.IfStmt:
			if s.Init == nil || s.Else != nil {
				continue // its condition is made false
			}
		default:
			continue
		}
		m.replace(s, "", statement, "")
	}
}
