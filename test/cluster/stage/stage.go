// Package stage is what tests on a real cluster have in common: kubectl against the cluster that KUBECONFIG names,
// namespaces that go with their test, manifests of a test rendered by the real function and deployed, and what is seen
// of them afterwards: pods, answers to calls, the ledger of a load, the proxies' metrics. Chain is an application that
// lives while its mesh changes; Daemon is a process of the node.
package stage

import (
	"os"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/kustomize/kyaml/kio"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/test/example"
)

// Render renders a package, and verifies what comes out as a pipeline would.
func Render(t *testing.T, e *example.Example) string {
	t.Helper()
	rendered := e.Render(t)
	e.Verify(t, rendered)
	return rendered
}

// Package is a package of kustomize with the manifests, in the namespace, or with "" in their own, and with the lines
// of config (two spaces indented) added to the spec of its MutualTLS. Nothing is issued yet. It is examples/pod with
// another pod.yaml.
func Package(t *testing.T, namespace, manifests, config string) *example.Example {
	t.Helper()
	e := example.Copy(t, "../../../examples/pod")
	e.Edit(t, "pod.yaml", func(string) string { return manifests })
	if namespace != "" {
		e.Edit(t, "kustomization.yaml", func(text string) string { return text + "namespace: " + namespace + "\n" })
	}
	if config != "" {
		e.Edit(t, "mtls.yaml", func(text string) string { return text + config })
	}
	return e
}

// Deploy renders the manifests of a file once and applies them once, into a namespace that goes with the test.
func Deploy(t *testing.T, namespace, file, config string) *example.Example {
	t.Helper()
	manifests, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	NewNamespace(t, namespace)
	e := Package(t, namespace, string(manifests), config)
	DeployPackage(t, namespace, e)
	return e
}

// DeployPackage issues, renders and applies a package, with the identity of its namespace.
func DeployPackage(t *testing.T, namespace string, e *example.Example) {
	t.Helper()
	e.Issue(t, time.Now())
	Must(t, e.IdentitySecret(namespace), "apply", "-f", "-")
	Must(t, Render(t, e), "apply", "--validate=strict", "-f", "-")
}

// DeployPlain applies the manifests as they are: the control without a mesh.
func DeployPlain(t *testing.T, namespace, file string) {
	t.Helper()
	NewNamespace(t, namespace)
	Must(t, "", "-n", namespace, "apply", "-f", file)
}

// Rollout waits until the workloads (kind/name) are rolled out.
func Rollout(t *testing.T, namespace string, workloads ...string) {
	t.Helper()
	for _, workload := range workloads {
		Must(t, "", "-n", namespace, "rollout", "status", workload, "--timeout=110s")
	}
}

// Ready waits until the pods (pod/name, or pods -l selector) are Ready.
func Ready(t *testing.T, namespace string, pods ...string) {
	t.Helper()
	Must(t, "", append([]string{"-n", namespace, "wait", "--for=condition=Ready", "--timeout=100s"}, pods...)...)
}

// OnlyIn are the objects of one render that another lacks: what a pruning apply removes.
func OnlyIn(t *testing.T, old, now string) string {
	t.Helper()
	names := map[string]bool{}
	for _, object := range parse(t, now) {
		names[nameOf(object)] = true
	}
	var gone []string
	for _, object := range parse(t, old) {
		if !names[nameOf(object)] {
			gone = append(gone, object.MustString())
		}
	}
	return strings.Join(gone, "---\n")
}

func nameOf(object *kyaml.RNode) string {
	return object.GetKind() + " " + object.GetNamespace() + "/" + object.GetName()
}

func parse(t *testing.T, manifests string) []*kyaml.RNode {
	t.Helper()
	objects, err := (&kio.ByteReader{Reader: strings.NewReader(manifests), OmitReaderAnnotations: true}).Read()
	if err != nil {
		t.Fatal(err)
	}
	return objects
}
