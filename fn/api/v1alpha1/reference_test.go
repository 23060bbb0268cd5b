package v1alpha1_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
)

var update = flag.Bool("update", false, "write docs/reference.md and docs/mutualtls.schema.json anew")

const (
	referenceFile = "../../../docs/reference.md"
	schemaFile    = "../../../docs/mutualtls.schema.json"
)

// TestReference: docs/reference.md and docs/mutualtls.schema.json say what the types say.
func TestReference(t *testing.T) {
	g := newGenerator(t)
	schema, err := json.MarshalIndent(g.document(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{referenceFile: g.reference(), schemaFile: string(schema) + "\n"} {
		if *update {
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if have, err := os.ReadFile(file); err != nil || string(have) != text {
			t.Errorf("%s is out of date (%v): go test ./fn/api/v1alpha1 -run TestReference -update", filepath.Base(file), err)
		}
	}
	for _, field := range g.undocumented {
		t.Errorf("%s has no comment, and its type none either", field)
	}
}

// required are the fields without which no render succeeds; packages seal and render, later rooms, judge them.
var required = map[string][]string{"Spec": {"certificates"}, "Sealing": {"recipients"}, "CA": {"recipients"}, "CertManager": {"issuerRef"}, "IssuerRef": {"name"}}

// generator reads shapes by reflection, comments from the source, defaults from Default and enums from Validate.
type generator struct {
	types    map[string]string            // comments by type
	fields   map[string]string            // by "Type.Field"
	values   map[string]map[string]string // of constants, by type and value
	defaults v1alpha1.MutualTLS

	undocumented []string
}

func newGenerator(t *testing.T) *generator {
	t.Helper()
	g := &generator{types: map[string]string{}, fields: map[string]string{}, values: map[string]map[string]string{}}
	g.defaults.Default()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	others, err := filepath.Glob("../../../internal/*/*.go") // where the enums are that the proxy reads too
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(others, files...) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		g.readComments(tree, tree.Name.Name != "v1alpha1")
	}
	return g
}

func (g *generator) readComments(tree *ast.File, constantsOnly bool) {
	oneLine := func(text string) string { return strings.Join(strings.Fields(text), " ") }
	for _, declaration := range tree.Decls {
		general, ok := declaration.(*ast.GenDecl)
		if !ok {
			continue
		}
		if general.Tok == token.CONST {
			g.readConstants(general)
		}
		if general.Tok != token.TYPE || constantsOnly {
			continue
		}
		for _, spec := range general.Specs {
			of := spec.(*ast.TypeSpec)
			g.types[of.Name.Name] = oneLine(general.Doc.Text())
			shape, ok := of.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, field := range shape.Fields.List {
				for _, name := range field.Names {
					g.fields[of.Name.Name+"."+name.Name] = oneLine(field.Doc.Text() + " " + field.Comment.Text())
				}
			}
		}
	}
}

func (g *generator) readConstants(general *ast.GenDecl) {
	for _, spec := range general.Specs {
		constant := spec.(*ast.ValueSpec)
		of, typed := constant.Type.(*ast.Ident)
		if !typed || len(constant.Values) != 1 {
			continue
		}
		literal, ok := constant.Values[0].(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			continue
		}
		if g.values[of.Name] == nil {
			g.values[of.Name] = map[string]string{}
		}
		g.values[of.Name][strings.Trim(literal.Value, `"`)] = strings.TrimSpace(strings.Join(strings.Fields(constant.Doc.Text()+" "+constant.Comment.Text()), " "))
	}
}

// meaning is what the comments say of a field: its own, those of its values, else that of its type.
func (g *generator) meaning(p property) string {
	text := p.meaning
	if d := g.defaultOf(p.path); d != nil {
		// it has a column of its own
		text = strings.TrimSuffix(strings.TrimSuffix(text, fmt.Sprintf("default %v", d)), "; ")
	}
	values := enum(p.path)
	if text == strings.Join(values, ", ") {
		text = ""
	}
	var described []string
	for _, value := range values {
		if comment := g.values[p.of.Name()][value]; comment != "" {
			described = append(described, "`"+value+"`: "+comment)
		}
	}
	if described != nil {
		return strings.TrimPrefix(text+"; "+strings.Join(described, "; "), "; ")
	}
	return text
}

// about is the comment of a type without the name that Go wants in front.
func (g *generator) about(name string) string {
	text := strings.TrimPrefix(strings.TrimPrefix(g.types[name], name+" "), "is ")
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// property is one field as YAML has it.
type property struct {
	name, path string
	meaning    string
	required   bool
	of         reflect.Type
}

// properties are the fields of a struct, those of embedded ones among them. Path is where the struct stands, "" within
// a list.
func (g *generator) properties(of reflect.Type, path string) []property {
	var all []property
	for field := range fieldsOf(of) {
		name, option, _ := strings.Cut(field.Tag.Get("json"), ",")
		if field.Anonymous && name == "" {
			all = append(all, g.properties(field.Type, path)...)
			continue
		}
		if name == "-" {
			continue
		}
		p := property{name: name, meaning: g.fields[of.Name()+"."+field.Name], of: field.Type, required: option == ""}
		if path != "" {
			p.path = path + "." + name
		}
		if p.meaning == "" {
			p.meaning = g.about(elementOf(field.Type).Name())
		}
		for _, name := range required[of.Name()] {
			p.required = p.required || p.name == name
		}
		p.meaning = g.meaning(p)
		if p.meaning == "" && ours(of) && enum(p.path) == nil {
			g.undocumented = append(g.undocumented, of.Name()+"."+field.Name)
		}
		all = append(all, p)
	}
	return all
}

func fieldsOf(of reflect.Type) func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range of.NumField() {
			if !yield(of.Field(i)) {
				return
			}
		}
	}
}

// elementOf is the type that a field is, or that its list, map or pointer holds.
func elementOf(of reflect.Type) reflect.Type {
	switch of.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return elementOf(of.Elem())
	}
	return of
}

func ours(of reflect.Type) bool {
	return of.PkgPath() == reflect.TypeFor[v1alpha1.Spec]().PkgPath()
}

// at returns the field of the defaulted config at a path like spec.tls.minVersion; the zero Value below a list or for a
// field of the metadata.
func at(config *v1alpha1.MutualTLS, path string) reflect.Value {
	if path == "" {
		return reflect.Value{}
	}
	value := reflect.ValueOf(config).Elem()
next:
	for name := range strings.SplitSeq(path, ".") {
		if value.Kind() != reflect.Struct {
			return reflect.Value{}
		}
		for field := range fieldsOf(value.Type()) {
			if tag, _, _ := strings.Cut(field.Tag.Get("json"), ","); tag == name {
				value = value.FieldByIndex(field.Index)
				continue next
			}
		}
		return reflect.Value{}
	}
	return value
}

// enum asks Validate which values a field takes; nil when any text is one.
func enum(path string) []string {
	var config v1alpha1.MutualTLS
	config.Default()
	value := at(&config, path)
	if !value.IsValid() || value.Kind() != reflect.String {
		return nil
	}
	value.SetString("?")
	for _, mistake := range v1alpha1.Mistakes(config.Validate()) {
		if _, values, isEnum := strings.Cut(mistake.Message, "is not supported; want "); isEnum && mistake.Path == path {
			return strings.Split(values, ", ")
		}
	}
	return nil
}

// defaultOf is the default of a field as it is written in YAML; nil for none.
func (g *generator) defaultOf(path string) any {
	value := at(&g.defaults, path)
	if !value.IsValid() || value.IsZero() {
		return nil
	}
	switch v := value.Interface().(type) {
	case metav1.Duration:
		return strings.TrimSuffix(strings.TrimSuffix(v.Duration.String(), "0s"), "0m")
	}
	switch value.Kind() {
	case reflect.String:
		return value.String()
	case reflect.Int64:
		return value.Int()
	}
	return nil
}

// reference is docs/reference.md.
func (g *generator) reference() string {
	var out strings.Builder
	out.WriteString("# Every field of MutualTLS\n\nWritten by `go test ./fn/api/v1alpha1 -run TestReference -update` from the types; [the overview](config.md) says what they are for. " +
		"[The schema](mutualtls.schema.json) is the same for editors and kubeconform.\n")
	seen := map[reflect.Type]bool{}
	var write func(of reflect.Type, path string)
	write = func(of reflect.Type, path string) {
		if seen[of] {
			return
		}
		seen[of] = true
		fmt.Fprintf(&out, "\n## %s\n\n", of.Name())
		if path != "" {
			fmt.Fprintf(&out, "`%s`. ", path)
		}
		fmt.Fprintf(&out, "%s\n\n| field | type | default | meaning |\n| --- | --- | --- | --- |\n", g.about(of.Name()))
		properties := g.properties(of, path)
		for _, p := range properties {
			standard := ""
			if d := g.defaultOf(p.path); d != nil {
				standard = fmt.Sprintf("`%v`", d)
			} else if p.required {
				standard = "required"
			}
			fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", p.name, typeText(p), standard, strings.ReplaceAll(p.meaning, "|", `\|`))
		}
		for _, p := range properties {
			if element := elementOf(p.of); element.Kind() == reflect.Struct && ours(element) && !isScalar(element) {
				below := p.path
				if p.of.Kind() != reflect.Struct {
					below = ""
				}
				write(element, below)
			}
		}
	}
	write(reflect.TypeFor[v1alpha1.Spec](), "spec")
	return out.String()
}

// typeText names the type of a field for people.
func typeText(p property) string {
	if values := enum(p.path); values != nil {
		return "`" + strings.Join(values, "`, `") + "`"
	}
	return typeName(p.of)
}

func typeName(of reflect.Type) string {
	switch {
	case scalars[of].name != "":
		return scalars[of].name
	case of.Kind() == reflect.Pointer:
		return typeName(of.Elem())
	case of.Kind() == reflect.Slice:
		return "list of " + typeName(of.Elem())
	case of.Kind() == reflect.Map:
		return "map of " + typeName(of.Elem())
	case of.Kind() == reflect.Struct && ours(of):
		return fmt.Sprintf("[%s](#%s)", of.Name(), strings.ToLower(of.Name()))
	case of.Kind() == reflect.Struct:
		return of.Name() + " of Kubernetes"
	case of.Kind() == reflect.Bool:
		return "true or false"
	case of.Kind() == reflect.String:
		return "text"
	}
	return "number"
}

// scalars are the types that YAML writes as one value, with their schema.
var scalars = map[reflect.Type]struct {
	name   string
	schema map[string]any
}{
	reflect.TypeFor[metav1.Duration]():      {"duration", map[string]any{"type": "string", "pattern": `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`}},
	reflect.TypeFor[v1alpha1.PortOrRange](): {"port or range", map[string]any{"type": []string{"integer", "string"}, "pattern": `^[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*$`, "minimum": 1, "maximum": 65535}},
	reflect.TypeFor[netip.Prefix]():         {"CIDR", map[string]any{"type": "string", "pattern": `^[0-9a-fA-F:.]+/[0-9]{1,3}$`}},
	reflect.TypeFor[intstr.IntOrString]():   {"port or its name", map[string]any{"type": []string{"integer", "string"}}},
	reflect.TypeFor[resource.Quantity]():    {"quantity", map[string]any{"type": []string{"integer", "number", "string"}}},
}

func isScalar(of reflect.Type) bool { return scalars[of].name != "" }
