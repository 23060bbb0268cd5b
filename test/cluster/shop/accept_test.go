//go:build e2e && linux

package shop

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/env"
)

// TestServerAcceptsEveryOutput: a real API server takes what the function makes of our own cases with probes and kinds
// of every sort. Nothing of it is kept.
func TestServerAcceptsEveryOutput(t *testing.T) {
	stage.NewNamespace(t, "accepted")
	for _, name := range []string{"kinds", "handlers", "overrides"} {
		t.Run(name, func(t *testing.T) {
			checkAccepted(t, "accepted", "../../../fn/pipeline/testdata/"+name+"/input.yaml")
		})
	}
}

// TestServerAcceptsCorpus: so it does with the applications of others.
func TestServerAcceptsCorpus(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(env.Corpus(t), "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	stage.NewNamespace(t, "accepted-corpus")
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { checkAccepted(t, "accepted-corpus", file) })
	}
}

// allowOverrides is a part of the config: our own cases use every annotation.
const allowOverrides = "  workloads: {overrides: [inject, exclude-inbound-ports, exclude-inbound-interfaces, exclude-outbound-ports, exclude-outbound-cidrs, " +
	"exclude-outbound-interfaces, exclude-outbound-uids, proxy-protocol-ports, pprof, permissive-ports, proxy-cpu, proxy-memory, proxy-image, log-level, tls-secret]}\n"

// checkAccepted renders a file of manifests and lets the server judge the output, for both kinds of apply.
func checkAccepted(t *testing.T, namespace, file string) {
	t.Helper()
	manifests, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	e := stage.Package(t, namespace, withoutDocuments(string(manifests), "extensions/v1beta1", "kind: Namespace"), allowOverrides)
	e.Issue(t, time.Now())
	rendered := e.Render(t)
	out := stage.Must(t, rendered, "apply", "--dry-run=server", "--validate=strict", "-f", "-")
	if !strings.Contains(out, "secret/meshless-") {
		t.Errorf("nothing of ours was applied:\n%s", out)
	}
	stage.Must(t, rendered, "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
}

// withoutDocuments leaves out documents that hold a mark: kinds that this server never had, and what the test brings
// itself.
func withoutDocuments(text string, marks ...string) string {
	var kept []string
next:
	for document := range strings.SplitSeq(text, "\n---\n") {
		for _, mark := range marks {
			if strings.Contains(document, mark) {
				continue next
			}
		}
		kept = append(kept, document)
	}
	return strings.Join(kept, "\n---\n")
}
