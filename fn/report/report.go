// Package report collects the findings of a render: errors, warnings and infos, each about one object and one field.
// The packages of the function report to people through it alone: as results of the ResourceList and as lines on
// stderr, since kustomize never shows results and kpt decides by the exit code alone.
//
// A field is named by its whole path from the top of the object: names are joined by dots, an entry of a list follows
// as its index, and a key that people choose stands in brackets, as in spec.template.spec.containers[0].name and
// metadata.annotations[meshless.dev/inject]. Annotation, Data and Below write them.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/GoogleContainerTools/kpt-functions-sdk/go/fn"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/internal/api"
)

// Object names the object that a finding is about. The zero Object is no object in particular.
type Object struct {
	APIVersion, Kind, Namespace, Name string
}

// ObjectOf names a node; fields that the node lacks stay empty, and so do all of them where the node is no mapping.
func ObjectOf(node *yaml.RNode) Object {
	if yaml.IsMissingOrNull(node) || node.YNode().Kind != yaml.MappingNode {
		return Object{}
	}
	o := Object{APIVersion: node.GetApiVersion(), Kind: node.GetKind()}
	if metadata := node.Field("metadata"); metadata != nil && metadata.Value.YNode().Kind != yaml.SequenceNode {
		// in which kyaml would look for keys, and panic
		o.Namespace, o.Name = node.GetNamespace(), node.GetName()
	}
	return o
}

// Annotation is the field of an object's annotation.
func Annotation(key string) string { return "metadata.annotations[" + key + "]" }

// Below is the field at a path below another field, "" being the object as a whole in both.
func Below(field, path string) string {
	if field == "" || path == "" || path[0] == '[' {
		return field + path
	}
	return field + "." + path
}

// Data is the field of a key of a ConfigMap or Secret.
func Data(key string) string { return "data[" + key + "]" }

// String is the form of error messages: `deployment prod/api`.
func (o Object) String() string {
	name := o.Name
	if o.Namespace != "" && name == "" {
		name = "of namespace " + o.Namespace
	} else if o.Namespace != "" {
		name = o.Namespace + "/" + name
	}
	return strings.TrimSpace(strings.ToLower(o.Kind) + " " + name)
}

// Report collects findings in the order in which they are made. The zero Report is empty and ready.
type Report struct {
	// Lines says that the nodes of located items know their lines in the files that their annotations name. Those of a
	// ResourceList know the lines of that.
	Lines bool
	// File is where all items stand; empty where their annotations say it.
	File string

	findings []Finding
	places   map[Object]place
	nodes    map[*yaml.Node]place
	located  int // calls of Locate
	config   Object
}

// Finding is one error, warning or info.
type Finding struct {
	Severity fn.Severity
	Object   Object // zero: about no object in particular
	Field    string // path, or empty: the object as a whole
	Message  string
	File     string // where the object stands, from the package's folder; empty where that is not known
	Index    int    // of the object in the file
	Line     int    // of the field, or of what holds it; 0 where that is not known
}

// Error adds a finding that fails the render. Field is a path like spec.template.spec.hostNetwork, or empty.
func (r *Report) Error(o Object, field, format string, args ...any) {
	r.add(fn.Error, o, field, format, args...)
}

// Warn adds a finding that a person should read.
func (r *Report) Warn(o Object, field, format string, args ...any) {
	r.add(fn.Warning, o, field, format, args...)
}

// Info adds a finding about what was changed, or about what is on purpose another than one would expect. Results must
// not change from run to run with nothing due.
func (r *Report) Info(o Object, field, format string, args ...any) {
	r.add(fn.Info, o, field, format, args...)
}

func (r *Report) add(severity fn.Severity, o Object, field, format string, args ...any) {
	at := r.places[o]
	if config, known := r.places[r.config]; known && strings.HasPrefix(field, declared) {
		at = config
	}
	r.addAt(at, severity, o, field, format, args...)
}

// declared are fields of the config, of whatever object a finding speaks: that one is made by somebody else.
const declared = "spec.workloads.declared["

func (r *Report) addAt(at place, severity fn.Severity, o Object, field, format string, args ...any) {
	r.findings = append(r.findings, Finding{Severity: severity, Object: o, Field: field, Message: redact(fmt.Sprintf(format, args...)),
		File: at.file, Index: at.index, Line: at.line(field)})
}

// ConfigIs says which object is the config.
func (r *Report) ConfigIs(o Object) { r.config = o }

// Config is the object for findings about the config.
func (r *Report) Config() Object {
	if r.config == (Object{}) {
		return Object{APIVersion: api.APIVersion, Kind: "MutualTLS"}
	}
	return r.config
}

// Add adds the findings of another report.
func (r *Report) Add(other *Report) { r.findings = append(r.findings, other.findings...) }

// DropRepeated drops findings that say of an object what one before them says, wherever it stands: a render and what
// verifies its output warn of the same.
func (r *Report) DropRepeated() {
	type said struct {
		severity       fn.Severity
		object         Object
		field, message string
	}
	before := map[said]bool{}
	r.findings = slices.DeleteFunc(r.findings, func(f Finding) bool {
		this := said{f.Severity, f.Object, f.Field, f.Message}
		twice := before[this]
		before[this] = true
		return twice
	})
}

// Failed tells whether there is an error.
func (r *Report) Failed() bool {
	return slices.ContainsFunc(r.findings, func(f Finding) bool { return f.Severity == fn.Error })
}

// Count is how many findings there are of a severity.
func (r *Report) Count(severity fn.Severity) int {
	count := 0
	for _, f := range r.findings {
		if f.Severity == severity {
			count++
		}
	}
	return count
}

// Findings are all, in the order in which they were made.
func (r *Report) Findings() []Finding { return r.findings }

// Results are the findings in the form of the KRM function specification, which knows no lines.
func (r *Report) Results() fn.Results {
	var results fn.Results
	for _, f := range r.findings {
		result := fn.GeneralResult(f.Message, f.Severity)
		if o := f.Object; o != (Object{}) {
			result.ResourceRef = &fn.ResourceRef{APIVersion: o.APIVersion, Kind: o.Kind, Namespace: o.Namespace, Name: o.Name}
		}
		if f.Field != "" {
			result.Field = &fn.Field{Path: f.Field}
		}
		if f.File != "" {
			result.File = &fn.File{Path: f.File, Index: f.Index}
		}
		results = append(results, result)
	}
	return results
}

// Errors are the messages of the errors, in the form of stderr.
func (r *Report) Errors() []string {
	var lines []string
	for _, f := range r.findings {
		if f.Severity == fn.Error {
			lines = append(lines, f.text())
		}
	}
	return lines
}

// WriteText writes a line for each finding: `error: deployment prod/api: spec.replicas: … (api.yaml:7)`.
func (r *Report) WriteText(w io.Writer) error {
	for _, f := range r.findings {
		if _, err := fmt.Fprintf(w, "%s: %s\n", f.Severity, f.text()); err != nil {
			return err
		}
	}
	return nil
}

// WriteJSON writes a value as every command does with -o json: indented, and as people read it.
func WriteJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

var ageKey = regexp.MustCompile(`(?i)AGE-SECRET-KEY-[A-Z0-9-]+`)

// redact is the last of several walls: no message quotes a value that may be a key, but an error of a library might.
func redact(message string) string {
	return ageKey.ReplaceAllString(message, "AGE-SECRET-KEY-[redacted]")
}

func (f Finding) text() string {
	var parts []string
	if f.Object.Kind != "" || f.Object.Name != "" {
		parts = append(parts, f.Object.String())
	}
	if f.Field != "" {
		parts = append(parts, f.Field)
	}
	return strings.Join(append(parts, f.Message), ": ") + inFile(f.File, f.Line)
}
