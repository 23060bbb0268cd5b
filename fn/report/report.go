// Package report collects what a render has to say: errors, warnings and infos, each about one object and one field. It
// is the only way from the rooms of the function to a person: as results of the ResourceList and as lines on stderr,
// since kustomize never shows results and kpt decides by the exit code alone.
package report

import (
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/GoogleContainerTools/kpt-functions-sdk/go/fn"
	"sigs.k8s.io/kustomize/kyaml/yaml"
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

// Annotation is the field path of an object's annotation.
func Annotation(key string) string { return "metadata.annotations[" + key + "]" }

// String is the form of error messages: `deployment prod/api`.
func (o Object) String() string {
	name := o.Name
	if o.Namespace != "" {
		name = o.Namespace + "/" + name
	}
	return strings.ToLower(o.Kind) + " " + name
}

// Report collects findings in the order in which they are made. The zero Report is empty and ready.
type Report struct {
	results fn.Results
}

// Error adds a finding that fails the render. Field is a path like spec.template.spec.hostNetwork, or empty.
func (r *Report) Error(o Object, field, format string, args ...any) {
	r.add(fn.Error, o, field, format, args...)
}

// Warn adds a finding that a person should read.
func (r *Report) Warn(o Object, field, format string, args ...any) {
	r.add(fn.Warning, o, field, format, args...)
}

// Info adds a finding about what was changed. With nothing due a render has none: results must not change from run to
// run.
func (r *Report) Info(o Object, field, format string, args ...any) {
	r.add(fn.Info, o, field, format, args...)
}

func (r *Report) add(severity fn.Severity, o Object, field, format string, args ...any) {
	result := fn.GeneralResult(redact(fmt.Sprintf(format, args...)), severity)
	if o != (Object{}) {
		result.ResourceRef = &fn.ResourceRef{APIVersion: o.APIVersion, Kind: o.Kind, Namespace: o.Namespace, Name: o.Name}
	}
	if field != "" {
		result.Field = &fn.Field{Path: field}
	}
	r.results = append(r.results, result)
}

// Failed tells whether there is an error.
func (r *Report) Failed() bool { return r.results.ExitCode() != 0 }

// Results are the findings in the form of the KRM function specification.
func (r *Report) Results() fn.Results { return r.results }

// Errors are the messages of the errors, in the form of stderr.
func (r *Report) Errors() []string {
	var lines []string
	for _, result := range r.results {
		if result.Severity == fn.Error {
			lines = append(lines, line(result))
		}
	}
	return lines
}

// WriteText writes a line for each finding: `error: deployment prod/api: spec.replicas: …`.
func (r *Report) WriteText(w io.Writer) error {
	for _, result := range r.results {
		if _, err := fmt.Fprintf(w, "%s: %s\n", result.Severity, line(result)); err != nil {
			return err
		}
	}
	return nil
}

var ageKey = regexp.MustCompile(`(?i)AGE-SECRET-KEY-[A-Z0-9-]*`)

// redact is the last of several walls: no message quotes a value that may be a key, but an error of a library might.
func redact(message string) string {
	return ageKey.ReplaceAllString(message, "AGE-SECRET-KEY-[redacted]")
}

func line(result *fn.Result) string {
	var parts []string
	if ref := result.ResourceRef; ref != nil && (ref.Kind != "" || ref.Name != "") {
		parts = append(parts, Object{Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name}.String())
	}
	if result.Field != nil {
		parts = append(parts, result.Field.Path)
	}
	return strings.Join(append(parts, result.Message), ": ")
}
