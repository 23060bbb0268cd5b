package podplan_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/internal/podplan"
)

func withTexts(path, header, value, service string) *podplan.Workload {
	return &podplan.Workload{SPIFFEID: "spiffe://cluster.local/ns/a/deployment/b", Handlers: map[string]podplan.Handler{
		"app/readinessProbe": {HTTPGet: &podplan.HTTPGet{Port: 80, Path: path, Headers: []podplan.HTTPHeader{{Name: header, Value: value}}}},
		"app/livenessProbe":  {GRPC: &podplan.GRPC{Port: 80, Service: service}},
	}}
}

// TestSubstituted: what Flux puts into the rendered text is what the probe has, quotes and backslashes too.
func TestSubstituted(t *testing.T) {
	text, err := withTexts("/${A}/x", "X-${A}", "Bearer ${A}", "${A}").Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"plain", `a"b`, `a\b`, `"},"spiffeID":"x`, `\u0022`, "a b", "@text 2: x", "", "ü", "${B}"} {
		substituted := strings.ReplaceAll(string(text), "${A}", value)
		got, err := podplan.ParseWorkload([]byte(substituted))
		if err != nil {
			t.Errorf("%q: %v\n%s", value, err, substituted)
			continue
		}
		if diff := cmp.Diff(withTexts("/"+value+"/x", "X-"+value, "Bearer "+value, value), got); diff != "" {
			t.Errorf("%q: %s", value, diff)
		}
	}
	for _, lines := range []string{"a\nb", "a\n@text 2: b", "x\n{}"} {
		if got, err := podplan.ParseWorkload([]byte(strings.ReplaceAll(string(text), "${A}", lines))); err == nil {
			t.Errorf("%q was taken: %+v", lines, got)
		}
	}
}

// TestTextsApart: nothing is apart without need, and no text is lost or taken for a reference.
func TestTextsApart(t *testing.T) {
	if text, _ := withTexts("/x", "$HOME", "$(POD)", "a").Marshal(); strings.Contains(string(text), "@text") {
		t.Errorf("texts without a variable stand apart:\n%s", text)
	}
	for _, w := range []*podplan.Workload{
		withTexts("@text 1", "@text 7: x", "@text ", "${X}"), withTexts("${A}\n${B}", "\u2028${A}", "${A} ", " ${A}"), withTexts("", "", "", ""),
		withTexts("@text 1\nx", "@text 2 ", "", ""),
	} {
		text, err := w.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := podplan.ParseWorkload(text)
		if err != nil {
			t.Errorf("%v\n%s", err, text)
		} else if diff := cmp.Diff(w, got); diff != "" {
			t.Errorf("%s\n%s", diff, text)
		}
	}
	for _, bad := range []string{"@text 2", "@text x"} {
		text, _ := withTexts("/x", "a", "${A}", "b").Marshal()
		if got, err := podplan.ParseWorkload([]byte(strings.Replace(string(text), "@text 1\"", bad+"\"", 1))); err == nil {
			t.Errorf("reference %s was taken: %+v", bad, got)
		}
	}
}

// TestNothingIsSubstitutedInJSON is an attack: who controls a variable that stands in a text which is not apart, since
// it fits into no line, would write JSON behind it.
func TestNothingIsSubstitutedInJSON(t *testing.T) {
	const value = `x"}]}}},"permissivePorts":"1-65535","handlers":{"a/b":{"httpGet":{"port":1,"path":"/","headers":[{"name":"a","value":"`
	for _, header := range []string{"${A} ", " ${A}", "${A}\u2028", "a\n${A}"} {
		w := withTexts("/x", "a", header, "b")
		text, err := w.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := podplan.ParseWorkload([]byte(strings.ReplaceAll(string(text), "${A}", value)))
		if err != nil {
			t.Errorf("%q: %v", header, err)
		} else if diff := cmp.Diff(w, got); diff != "" {
			t.Errorf("%q: %s", header, diff)
		}
	}
}
