package v1alpha1_test

import (
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
)

// Lifetimes that do not fit each other are refused by the field that has to change; the edges of what is allowed are
// taken.
func TestLifetimes(t *testing.T) {
	for _, test := range []struct{ validity, renewBefore, period, want string }{
		{"720h", "360h", "2160h", ""},
		{"100h", "50h", "1h", ""},
		{"8784h", "8783h", "88h", ""},
		{"101h", "50h", "1h", "spec.certificates.ca.signingPeriod: 1h0m0s is less than a hundredth of validity, 101h0m0s"},
		{"8784h", "1h", "24h", "spec.certificates.ca.signingPeriod: 24h0m0s is less than a hundredth of validity"},
		{"720h", "720h", "2160h", "spec.certificates.renewBefore: 720h0m0s must be more than zero and less than validity"},
		{"720h", "721h", "2160h", "spec.certificates.renewBefore: 721h0m0s must be"},
		{"720h", "-1h", "2160h", "spec.certificates.renewBefore: -1h0m0s must be"},
		{"59m", "20m", "2160h", "spec.certificates.validity: 59m0s is outside of"},
		{"8785h", "20h", "2160h", "spec.certificates.validity: 8785h0m0s is outside of"},
		{"-720h", "20h", "2160h", "spec.certificates.validity: -720h0m0s is outside of"},
		{"720h", "20h", "59m", "spec.certificates.ca.signingPeriod: 59m0s is outside of"},
		{"720h", "20h", "-1h", "spec.certificates.ca.signingPeriod: -1h0m0s is outside of"},
	} {
		text := fmt.Sprintf("apiVersion: meshless.dev/v1alpha1\nkind: MutualTLS\nmetadata: {name: mtls}\nspec:\n  sealing: {recipients: [a]}\n"+
			"  certificates: {validity: %s, renewBefore: %s, ca: {recipients: [b], signingPeriod: %s}}\n", test.validity, test.renewBefore, test.period)
		_, err := v1alpha1.Load(yaml.MustParse(text))
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s, %s, %s: %v, want %q", test.validity, test.renewBefore, test.period, err, test.want)
		}
	}
}
