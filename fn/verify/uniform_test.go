package verify_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// TestUniform: what one config says for all proxies is the same of all, or the odd one is named. A Job may be held back
// at what an earlier config said.
func TestUniform(t *testing.T) {
	deployment, _, _ := strings.Cut(manifests, "\n---\n")
	more := "\n---\n" + strings.NewReplacer("name: web", "name: api", "app: web", "app: api").Replace(deployment)
	text := renderedFrom(t, manifests+more, func(s *v1alpha1.Spec) {
		s.Proxy.Records, s.Proxy.IdleTimeout = podplan.RecordsStandard, metav1.Duration{Duration: 8 * time.Hour}
	})
	if got := findings(t, text, true); got != "" {
		t.Fatalf("of proxies that are told the same: %q", got)
	}
	for args, want := range map[string]string{
		"--records=Standard":    `takes "records Standard", and most workloads take "records Own"`,
		"--idle-timeout=8h0m0s": `takes "idle timeout 8h0m0s", and most workloads take "idle timeout 0s"`,
	} {
		line := regexp.MustCompile(`(?m)^ *- "?` + args + `"?\n`)
		all := line.FindAllStringIndex(text, -1)
		if len(all) != 3 {
			t.Fatalf("%s stands %d times", args, len(all))
		}
		first := all[0] // of a Deployment
		if got := findings(t, text[:first[0]]+text[first[1]:], true); strings.Count(got, "error:") != 1 || !strings.Contains(got, want) {
			t.Errorf("%s of one alone: %q, want %s", args, got, want)
		}
	}
}
