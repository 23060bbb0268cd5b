package verify_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// What leads the DNS of a pod without redirect rules to its proxy, and what its proxy takes, stands in many places of
// the template. Each that somebody changes behind a render is a finding, and so is a mode that is not what the
// annotation asks for.
func TestNoRedirect(t *testing.T) {
	const app = "containers:\n      - name: app\n        image: web:1\n"
	config := func(s *v1alpha1.Spec) {
		s.Redirect.None = []v1alpha1.Selector{{Kind: "Deployment"}}
		s.Init.Backend, s.Inbound.ClientCIDRs = podplan.BackendNFTables, []netip.Prefix{netip.MustParsePrefix("100.64.0.0/16")} // of the Job alone
	}
	ported := strings.Replace(manifests, app, app+"        ports: [{containerPort: 80}]\n", 1)
	text := renderedFrom(t, ported, config)
	asked := renderedFrom(t, strings.Replace(ported, "labels: {app: web}\n    spec", "labels: {app: web}\n      annotations: {meshless.dev/redirect: None, meshless.dev/app-address: Loopback}\n    spec", 1),
		func(*v1alpha1.Spec) {})
	for name, test := range map[string]struct{ text, old, with, want string }{
		"untouched":          {text, "", "", ""},
		"asked for":          {asked, "", "", ""},
		"own resolver":       {text, "          subPath: resolv.conf", "          subPath: other.conf", "volumeMounts[0].subPath: is \"other.conf\", and must be"},
		"writable resolver":  {text, "          name: meshless-resolver\n          readOnly: true", "          name: meshless-resolver\n          readOnly: false", "volumeMounts[0].readOnly: is"},
		"another resolver":   {text, "        name: meshless-resolver\n", "        name: resolver\n", "meshless-resolver"},
		"more of the volume": {text, "        image: web:1\n", "        image: web:1\n        lifecycle: {}\n", ""},
		"ports of root":      {text, "ip_unprivileged_port_start\n          value: \"0\"", "ip_unprivileged_port_start\n          value: \"1024\"", "spec.securityContext.sysctls"},
		"rules":              {text, "        - resolver\n", "", "are of two modes"},
		"rules taken out":    {text, "        - resolver\n        - --proxy-uid=15000\n", "        - remove\n", "takes rules out"},
		"redirected":         {text, "        - --no-redirect\n        - --direct-ports=80\n", "", "are of two modes"},
		"a port fewer":       {text, "        - --direct-ports=80\n", "", "must be"},
		"an exclusion":       {text, "        - resolver\n", "        - resolver\n        - --exclude-outbound-ports=5432\n", "this pod has none"},
		"two at one port":    {text, "--direct-ports=80\n", "--direct-ports=10080,34080\n", "both taken at 16080"},
		"excluded as well":   {text, "        - --proxy-uid=15000\n", "        - --proxy-uid=15000\n        - --exclude-inbound-ports=80\n", "excluded and direct at once"},
		"NET_ADMIN":          {text, "          capabilities:\n            drop:", "          capabilities:\n            add: [NET_ADMIN]\n            drop:", "without any capability"},
		"root":               {text, "          runAsUser: 15000", "          runAsUser: 0", "without any capability"},
		"asks for rules":     {asked, "meshless.dev/redirect: None", "meshless.dev/redirect: Rules", "annotations[meshless.dev/redirect]: asks for"},
		"another address":    {asked, "        - --app-address=Loopback\n", "", "annotations[meshless.dev/app-address]: asks for"},
		"no address asked":   {asked, ", meshless.dev/app-address: Loopback", "", "annotations[meshless.dev/app-address]: asks for"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(test.text, test.old) {
				t.Fatalf("the rendered manifests hold no %q:\n%s", test.old, test.text)
			}
			if got := said(t, strings.Replace(test.text, test.old, test.with, 1)); (test.want == "") != (got == "") || !strings.Contains(got, test.want) {
				t.Errorf("said %q, want %q", got, test.want)
			}
		})
	}
}

// What callers reach of a pod without redirect rules is the port of its app, whatever port its Service leads to.
// The one that the API server calls is open, and advice names one that annotations take.
func TestNoRedirectCallers(t *testing.T) {
	none := func(s *v1alpha1.Spec) { s.Redirect.None = []v1alpha1.Selector{{Kind: "Deployment"}} }
	public := strings.Replace(manifests, "spec: {selector: {app: web}, ports: [{port: 80}]}", "spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80}]}", 1)
	for name, test := range map[string]struct{ text, want string }{
		"called":        {renderedFrom(t, manifests+hook, none), "info: deployment prod/web: spec.template.metadata.annotations: port 80 takes the app's own TLS beside mutual TLS"},
		"from outside":  {renderedFrom(t, public, none), `meshless.dev/permissive-ports: "80"`},
		"by a new hook": {renderedFrom(t, manifests, none) + hook, `asks for "80"`},
	} {
		t.Run(name, func(t *testing.T) {
			got := said(t, test.text)
			if !strings.Contains(test.text, "targetPort: 22080") {
				t.Fatalf("no Service leads to the proxy in\n%s", test.text)
			}
			if !strings.Contains(got, test.want) || strings.Contains(got, "22080") || name != "by a new hook" && strings.Contains(got, "error:") {
				t.Errorf("said %q, want %q", got, test.want)
			}
		})
	}
}
