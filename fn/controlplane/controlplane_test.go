package controlplane_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/controlplane"
	"github.com/meshless-dev/meshless/fn/report"
)

var update = flag.Bool("update", false, "write the expected files of the golden cases")

// TestGolden applies the tls.yaml of every case below testdata to its input.yaml. What a second time changes or says is
// wrong.
func TestGolden(t *testing.T) {
	cases, err := filepath.Glob("testdata/*/input.yaml")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no golden cases found (%v)", err)
	}
	for _, file := range cases {
		folder := filepath.Dir(file)
		t.Run(filepath.Base(folder), func(t *testing.T) {
			settings := load(t, read(t, filepath.Join(folder, "tls.yaml")))
			items := parse(t, read(t, filepath.Join(folder, "input.yaml")))
			r := &report.Report{}
			controlplane.Apply(items, settings, r)
			var findings bytes.Buffer
			if err := r.WriteText(&findings); err != nil {
				t.Fatal(err)
			}
			compare(t, filepath.Join(folder, "findings.txt"), findings.String())
			if r.Failed() {
				return
			}
			once := text(t, items)
			compare(t, filepath.Join(folder, "expected.yaml"), once)
			r = &report.Report{}
			controlplane.Apply(items, settings, r)
			if diff := cmp.Diff(once, text(t, items)); diff != "" {
				t.Errorf("a second time changes the output:\n%s", diff)
			}
			for _, result := range r.Results() {
				if result.Severity == "info" {
					t.Errorf("a second time says: %s", result.Message)
				}
			}
		})
	}
}

// Without controlPlane nothing is looked at, and nothing is taken from the mesh.
func TestOff(t *testing.T) {
	input := read(t, "testdata/kubeadm/input.yaml")
	items := parse(t, input)
	r := &report.Report{}
	rest := controlplane.Apply(items, v1alpha1.TLS{MinVersion: v1alpha1.VersionTLS13}, r)
	if len(rest) != len(items) || len(r.Results()) != 0 || text(t, items) != text(t, parse(t, input)) {
		t.Errorf("%d of %d items are left; findings %v", len(rest), len(items), r.Results())
	}
}

// Only Pods on the host's network are kept from the mesh: an etcd of an app's own belongs there.
func TestRest(t *testing.T) {
	items := parse(t, `
apiVersion: v1
kind: Pod
metadata: {name: etcd-node1, namespace: kube-system}
spec: {hostNetwork: true, containers: [{name: etcd, image: etcd, command: [etcd]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: etcd, namespace: app}
spec: {containers: [{name: etcd, image: etcd, command: [etcd]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: agent, namespace: app}
spec: {hostNetwork: true, containers: [{name: agent, image: agent, command: [agent]}]}
`)
	r := &report.Report{}
	var names []string
	for _, item := range controlplane.Apply(items, v1alpha1.TLS{MinVersion: v1alpha1.VersionTLS13, ControlPlane: true}, r) {
		names = append(names, item.GetName())
	}
	if diff := cmp.Diff([]string{"etcd", "agent"}, names); diff != "" || r.Failed() {
		t.Errorf("left for the mesh: %s%v", diff, r.Errors())
	}
}

// FuzzCommandLine: whatever words a command holds, Apply ends, has the flag once, and does nothing more the second
// time.
func FuzzCommandLine(f *testing.F) {
	for _, seed := range []string{
		"kube-apiserver --a=b", "etcd -tls-min-version TLS1.2 --tls-min-version", "go-runner --x etcd\n--cipher-suites a --cipher-suites=b",
		"go-runner x etcd -cipher-suites", "kube-scheduler -- --tls-min-version=x", "kube-scheduler --tls_min_version\n", "--tls-min-version\nkube-apiserver",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if !utf8.ValidString(line) {
			return // no YAML is
		}
		command, args, _ := strings.Cut(line, "\n")
		sequence := func(s string) *yaml.Node {
			n := &yaml.Node{Kind: yaml.SequenceNode, Tag: yaml.NodeTagSeq}
			for word := range strings.FieldsSeq(s) {
				n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: yaml.NodeTagString, Value: word})
			}
			return n
		}
		item := yaml.MustParse("apiVersion: v1\nkind: Pod\nspec: {hostNetwork: true, containers: [{name: a}]}")
		container := yaml.NewRNode(item.Field("spec").Value.Field("containers").Value.Content()[0])
		container.YNode().Content = append(container.YNode().Content, yaml.NewStringRNode("command").YNode(), sequence(command), yaml.NewStringRNode("args").YNode(), sequence(args))
		settings := v1alpha1.TLS{MinVersion: v1alpha1.VersionTLS13, ControlPlane: true}
		r := &report.Report{}
		if rest := controlplane.Apply([]*yaml.RNode{item}, settings, r); len(rest) == 1 || r.Failed() {
			return
		}
		once := item.MustString()
		if !strings.Contains(once, "TLS1.3") && !strings.Contains(once, v1alpha1.VersionTLS13) {
			t.Errorf("no version is set:\n%s", once)
		}
		controlplane.Apply([]*yaml.RNode{item}, settings, r)
		if twice := item.MustString(); twice != once {
			t.Errorf("once\n%s\ntwice\n%s", once, twice)
		}
	})
}

func load(t *testing.T, tls string) v1alpha1.TLS {
	t.Helper()
	config, err := v1alpha1.Load(yaml.MustParse("apiVersion: meshless.dev/v1alpha1\nkind: MutualTLS\nspec:\n  tls: " + tls))
	if err != nil {
		t.Fatal(err)
	}
	return config.Spec.TLS
}

func parse(t *testing.T, input string) []*yaml.RNode {
	t.Helper()
	items, err := (&kio.ByteReader{Reader: strings.NewReader(input), OmitReaderAnnotations: true}).Read()
	if err != nil {
		t.Fatal(err)
	}
	return items
}

func text(t *testing.T, items []*yaml.RNode) string {
	t.Helper()
	var out bytes.Buffer
	if err := (kio.ByteWriter{Writer: &out}).Write(items); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func compare(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(read(t, file), got); diff != "" {
		t.Errorf("%s differs (-want +got); run with -update when that is right:\n%s", file, diff)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
