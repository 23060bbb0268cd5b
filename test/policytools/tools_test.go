package policytools

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/program"
)

// finding is what a tool says of a container, or of an object when Container is empty.
type finding struct{ Object, Rule, Container, Message string }

// whose is the second column of the page's tables.
func (f finding) whose() string {
	switch f.Container {
	case api.InitName, api.ProxyName:
		return f.Container
	case "":
		return "workload"
	}
	return "app"
}

// tool finds what a tool says of manifests; excepted: with the exceptions that are not in the manifests.
type tool func(t *testing.T, manifests string, excepted bool) map[finding]bool

// check runs the tool over all inputs, and compares what is new after the injection with the page's section.
func check(t *testing.T, section string, run tool) {
	occurs := map[string]bool{}
	for _, in := range inputs {
		t.Run(in.name, func(t *testing.T) {
			r := in.render(t)
			before := run(t, r.before, false)
			for f := range run(t, r.after, false) {
				if !before[f] {
					occurs[f.Rule+" "+f.whose()] = true
				}
			}
			for f := range run(t, r.excepted, true) {
				if !before[f] {
					t.Errorf("with the exceptions of examples/policies there still is %+v", f)
				}
			}
		})
	}
	listed := lines(t, section)
	for _, line := range slices.Sorted(maps.Keys(occurs)) {
		if !listed[line] {
			t.Errorf("docs/policy-tools.md, %s, lacks %s", section, line)
		}
	}
	for _, line := range slices.Sorted(maps.Keys(listed)) {
		if !occurs[line] {
			t.Errorf("docs/policy-tools.md, %s, has %s, which the tool does not say", section, line)
		}
	}
}

// output is what a program prints that exits 1 when it finds something.
func output(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1 || out.Len() == 0) {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, &stderr)
	}
	return out.Bytes()
}

func decode(t *testing.T, data []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%v in:\n%.1000s", err, data)
	}
}

// Its grades are 1, critical, 5, a warning, and 7 and 10, fine.
func TestKubeScore(t *testing.T) {
	score := program.Find(t, "kube-score", "test/policytools/programs.sh builds it")
	check(t, "kube-score", func(t *testing.T, manifests string, _ bool) map[finding]bool {
		var objects []struct {
			Name   string `json:"object_name"`
			Checks []struct {
				Check    struct{ ID string }
				Grade    int
				Skipped  bool
				Comments []struct{ Path, Summary string }
			}
		}
		decode(t, output(t, score, "score", "--output-format=json", temporary(t, "manifests.yaml", manifests)), &objects)
		found := map[finding]bool{}
		for _, o := range objects {
			for _, c := range o.Checks {
				if c.Skipped || c.Grade > 5 {
					continue
				}
				for _, comment := range c.Comments {
					found[finding{o.Name, c.Check.ID, comment.Path, comment.Summary}] = true
				}
			}
		}
		return found
	})
}

// The rules are those of the library in short, the constraints those of examples/policies.
func TestGatekeeper(t *testing.T) {
	gator := program.Find(t, "gator", "test/policytools/programs.sh builds it")
	container := regexp.MustCompile(`container <([^>]+)>`)
	check(t, "Gatekeeper", func(t *testing.T, manifests string, excepted bool) map[finding]bool {
		constraints := read(t, policies+"/gatekeeper.yaml")
		if !excepted {
			constraints = regexp.MustCompile(`(?m)(, )?exemptImages: \[.*?\]`).ReplaceAllString(constraints, "")
		}
		lib := strings.ReplaceAll(read(t, "testdata/pod.rego"), "\n", "\n          ")
		templates := strings.ReplaceAll(read(t, "testdata/templates.yaml"), "{{LIB}}", lib)
		var violations []struct {
			Msg        string
			Constraint struct{ Kind string }
			Object     struct {
				Metadata struct{ Name, Namespace string }
			} `json:"violatingObject"`
		}
		decode(t, output(t, gator, "test", "--output=json", "--filename="+temporary(t, "manifests.yaml", manifests),
			"--filename="+temporary(t, "constraints.yaml", constraints), "--filename="+temporary(t, "templates.yaml", templates)), &violations)
		found := map[finding]bool{}
		for _, v := range violations {
			name := container.FindStringSubmatch(v.Msg)
			if name == nil {
				t.Fatalf("%s says what the templates do not say: %s", v.Constraint.Kind, v.Msg)
			}
			found[finding{v.Object.Metadata.Namespace + "/" + v.Object.Metadata.Name, v.Constraint.Kind, name[1], v.Msg}] = true
		}
		return found
	})
}

// It is Kyverno's own code for the rule podSecurity, level restricted (testdata/kyverno).
func TestKyverno(t *testing.T) {
	kyverno := program.Find(t, "kyverno-podsecurity", "test/policytools/programs.sh builds it")
	check(t, "Kyverno", func(t *testing.T, manifests string, excepted bool) map[finding]bool {
		var args []string
		if excepted {
			args = append(args, policies+"/kyverno.yaml")
		}
		cmd := exec.CommandContext(t.Context(), kyverno, args...)
		cmd.Stdin = strings.NewReader(manifests)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("kyverno-podsecurity: %v\n%s", err, &stderr)
		}
		var all []finding
		decode(t, out, &all)
		found := map[finding]bool{}
		for _, f := range all {
			found[f] = true
		}
		return found
	})
}

func TestKubeLinter(t *testing.T) {
	linter := program.FindForeign(t, "kube-linter", "its module asks for others that module proxies do not serve; install a release of github.com/stackrox/kube-linter")
	container := regexp.MustCompile(`container "([^"]+)"`)
	check(t, "kube-linter", func(t *testing.T, manifests string, _ bool) map[finding]bool {
		var result struct {
			Reports []struct {
				Check      string
				Diagnostic struct{ Message string }
				Object     struct {
					K8sObject struct {
						Namespace, Name  string
						GroupVersionKind struct{ Kind string }
					}
				}
			}
		}
		decode(t, output(t, linter, "lint", "--format=json", temporary(t, "manifests.yaml", manifests)), &result)
		found := map[finding]bool{}
		for _, r := range result.Reports {
			name := ""
			if match := container.FindStringSubmatch(r.Diagnostic.Message); match != nil {
				name = match[1]
			}
			o := r.Object.K8sObject
			found[finding{o.GroupVersionKind.Kind + "/" + o.Namespace + "/" + o.Name, r.Check, name, r.Diagnostic.Message}] = true
		}
		return found
	})
}
