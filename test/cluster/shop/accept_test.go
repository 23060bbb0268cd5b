//go:build e2e && linux

package shop

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/cluster/stage"
)

// TestServerAcceptsEveryOutput: a real API server takes what the function makes of the applications of others, and of
// our own cases with probes and kinds of every sort. Nothing of it is kept.
func TestServerAcceptsEveryOutput(t *testing.T) {
	corpus, err := filepath.Glob("../../../../shared/corpus/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(corpus) == 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs ../shared/corpus beside the repository")
		}
		t.Log("without ../shared/corpus beside the repository, only our own cases are shown")
	}
	const namespace = "accepted"
	stage.NewNamespace(t, namespace)
	for _, file := range append(corpus, "../../../fn/pipeline/testdata/kinds/input.yaml", "../../../fn/pipeline/testdata/handlers/input.yaml", "../../../fn/pipeline/testdata/overrides/input.yaml") {
		name := strings.TrimSuffix(strings.TrimPrefix(file, "../../../"), ".yaml")
		t.Run(name, func(t *testing.T) {
			manifests, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			e := stage.Package(t, namespace, withoutDocuments(string(manifests), "extensions/v1beta1", "kind: Namespace"), "")
			e.Issue(t, time.Now())
			rendered := e.Render(t)
			out := stage.Must(t, rendered, "apply", "--dry-run=server", "--validate=strict", "-f", "-")
			if !strings.Contains(out, "secret/meshless-") {
				t.Errorf("nothing of ours was applied:\n%s", out)
			}
			stage.Must(t, rendered, "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
		})
	}
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
