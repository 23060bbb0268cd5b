package verify_test

import (
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/verify"
)

// TestSubstituted: output in which variables of probes were substituted is as good as before, and a probe that the
// proxy would perform in another way than its manifest says is not.
func TestSubstituted(t *testing.T) {
	probe := "containers:\n      - readinessProbe: {httpGet: {path: '/${PLACE}/ready', port: 80, httpHeaders: [{name: A, value: '${TOKEN}'}]}}\n        name: probed\n        image: i\n      "
	input := strings.Replace(manifests, "containers:\n      ", probe, 1)
	if input == manifests {
		t.Fatal("the manifests are not as this test knows them")
	}
	text := renderedFrom(t, input, func(*v1alpha1.Spec) {})
	for name, c := range map[string]struct {
		with *strings.Replacer
		ok   bool
	}{
		"as rendered":              {strings.NewReplacer(), true},
		"quotes and backslash":     {strings.NewReplacer("${PLACE}", "here", "${TOKEN}", `a"b\c`), true},
		"in the proxy's alone":     {strings.NewReplacer("@text 1: /${PLACE}/", "@text 1: /there/"), false},
		"one for the other":        {strings.NewReplacer(`"@text 2"`, `"@text 1"`), false},
		"a line of another number": {strings.NewReplacer("@text 2: ", "@text 3: "), false},
	} {
		r := &report.Report{}
		verify.Check(parse(t, c.with.Replace(text)), verify.Options{Now: now, EveryWorkload: true, Kinds: manifest.KindsOf(v1alpha1.Spec{})}, r)
		if r.Failed() == c.ok {
			var said strings.Builder
			_ = r.WriteText(&said)
			t.Errorf("%s: failed: %t\n%s", name, r.Failed(), said.String())
		}
	}
}
