package pipeline_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/internal/api"
)

const containerConfig = plainConfig + "  sidecar: {mode: Container}\n"

// A package moves between the two forms of the sidecar and back, written to files in between, and nothing of the other
// form is left.
func TestSwitchingSidecarModes(t *testing.T) {
	w := newWorld(t)
	native := w.config(t, plainConfig)
	container := w.config(t, containerConfig)
	input := readFile(t, "testdata/container-mode/input.yaml")
	first, _ := w.mustRun(t, parse(t, input), native)
	want := text(t, first)
	if strings.Contains(want, "default-container: web") || strings.Contains(want, "preStop:\n            exec") {
		t.Error("a native render has what is for a sidecar that is a plain container")
	}
	w.noIdentity = true // the form of the sidecar is no reason for a new certificate
	second, _ := w.mustRun(t, parse(t, want), container)
	switched := text(t, second)
	if strings.Contains(switched, "restartPolicy: Always") || strings.Contains(switched, "startupProbe") {
		t.Error("a switched render has what is for a native sidecar")
	}
	again, _ := w.mustRun(t, parse(t, switched), container)
	if diff := cmp.Diff(switched, text(t, again)); diff != "" {
		t.Errorf("a render of what was written differs:\n%s", diff)
	}
	back, _ := w.mustRun(t, parse(t, switched), native)
	if diff := cmp.Diff(want, text(t, back)); diff != "" {
		t.Errorf("Native, Container, Native differs:\n%s", diff)
	}
}

// What kubectl shows first is the app; a choice that somebody has made, before or after an injection, stays.
func TestDefaultContainer(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, containerConfig)
	const key = "kubectl.kubernetes.io/default-container: "
	out, _ := w.mustRun(t, parse(t, readFile(t, "testdata/container-mode/input.yaml")), config)
	edited := strings.Replace(text(t, out), key+"web\n", key+"metrics\n", 1)
	if edited == text(t, out) {
		t.Fatal("the render has chosen no container for kubectl")
	}
	again, _ := w.mustRun(t, parse(t, edited), config)
	for _, test := range []struct{ kind, name, want string }{{"Deployment", "web", key + "metrics"}, {"StatefulSet", "db", key + "backup"}} {
		item := find(t, again, test.kind, test.name)
		if got := item.MustString(); !strings.Contains(got, test.want) || strings.Contains(got, api.DefaultAnnotation) {
			t.Errorf("%s: want %q, and it not to be ours:\n%s", test.name, test.want, got)
		}
	}
	strip(t, find(t, again, "Deployment", "web"), config.Spec)
	if got := find(t, again, "Deployment", "web").MustString(); !strings.Contains(got, key+"metrics") {
		t.Errorf("un-injection has taken somebody's choice:\n%s", got)
	}
}
