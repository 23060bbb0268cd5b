package verify_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
)

// What one workload is told beyond the config, its annotations say: an edit of the rendered containers alone is a
// finding, and so is an annotation that no render has seen.
func TestAnnotated(t *testing.T) {
	const asked = "labels: {app: web}\n      annotations: {meshless.dev/exclude-outbound-ports: ' 25, 5432', meshless.dev/exclude-outbound-cidrs: '10.1.2.3/32,10.0.0.0/8'," +
		" meshless.dev/permissive-ports: '81,80', meshless.dev/pprof: enabled, meshless.dev/exclude-outbound-uids: '1001', meshless.dev/exclude-outbound-interfaces: net1}\n    spec"
	configured := func(s *v1alpha1.Spec) {
		if err := yaml.Unmarshal([]byte("[25, 9000-9010]"), &s.Outbound.ExcludePorts); err != nil {
			t.Fatal(err)
		}
	}
	plain, chosen := renderedWith(t, configured), renderedFrom(t, strings.Replace(manifests, "labels: {app: web}\n    spec", asked, 1), configured)
	init, proxy := "        - --proxy-uid=15000\n", "      - name: meshless-proxy\n"
	for name, test := range map[string]struct{ text, old, with, want string }{
		"untouched":           {plain, "", "", ""},
		"asked for":           {chosen, "", "", ""},
		"outbound port":       {plain, "--exclude-outbound-ports=25,9000-9010", "--exclude-outbound-ports=25,5432,9000-9010", "metadata.annotations[meshless.dev/exclude-outbound-ports]: asks for"},
		"outbound network":    {plain, init, init + "        - --exclude-outbound-cidrs=10.0.0.0/8\n", "metadata.annotations[meshless.dev/exclude-outbound-cidrs]: asks for"},
		"outbound user":       {plain, init, init + "        - --exclude-outbound-uids=5\n", "metadata.annotations[meshless.dev/exclude-outbound-uids]: asks for"},
		"outbound interface":  {plain, init, init + "        - --exclude-outbound-interfaces=net1\n", "metadata.annotations[meshless.dev/exclude-outbound-interfaces]: asks for"},
		"permissive":          {plain, "deployment/web\",", "deployment/web\", \"permissivePorts\": \"1-65535\",", "metadata.annotations[meshless.dev/permissive-ports]: asks for"},
		"PROXY protocol":      {plain, "deployment/web\",", "deployment/web\", \"proxyProtocolPorts\": \"80\",", "metadata.annotations[meshless.dev/proxy-protocol-ports]: asks for"},
		"profiles":            {plain, proxy, proxy + "        args: [--pprof]\n", "metadata.annotations[meshless.dev/pprof]: asks for"},
		"backend":             {plain, init, init + "        - --backend=NFTables\n", "initContainers[0].args: takes"},
		"an unread wish":      {plain, "      annotations:\n", "      annotations:\n        meshless.dev/exclude-outbound-ports: '5432'\n", "asks for \"25,5432,9000-9010\", together"},
		"an unreadable wish":  {plain, "      annotations:\n", "      annotations:\n        meshless.dev/permissive-ports: http\n", "is not a port"},
		"a wish taken out":    {chosen, "meshless.dev/permissive-ports: '81,80', ", "", "metadata.annotations[meshless.dev/permissive-ports]: asks for"},
		"a user as the proxy": {strings.Replace(plain, "15000\n", "65532\n", 3), "", "", "initContainers[0].args: takes"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(test.text, test.old) {
				t.Fatalf("the rendered manifests hold no %q", test.old)
			}
			if got := said(t, strings.Replace(test.text, test.old, test.with, 1)); (test.want == "") != (got == "") || !strings.Contains(got, test.want) {
				t.Errorf("said %q, want %q", got, test.want)
			}
		})
	}
}
