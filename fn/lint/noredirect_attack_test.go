package lint_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/kio"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/lint"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// TestAttackAddresses: what leads the app of a pod without redirect rules past DNS is a finding, and nothing else is.
func TestAttackAddresses(t *testing.T) {
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop, annotations: {meshless.dev/redirect: None}}\nspec: {HOSTS containers: [{name: c, image: i, FIELDS}]}\n"
	for fields, want := range map[string]string{
		"hostAliases: [{ip: 10.96.0.7, hostnames: [api.shop]}],":               "spec.hostAliases[0]",
		"hostAliases: [{ip: 127.0.0.1, hostnames: [me]}],":                     "",
		"env: [{name: DB, value: 'postgres://u@10.96.0.9:5432/d'}]":            "spec.containers[0].env[0].value",
		"env: [{name: DB, value: 'http://[fd00:96::9]:80'}]":                   "spec.containers[0].env[0].value",
		"args: [--peer, '10.0.0.1:7000']":                                      "spec.containers[0].args[1]",
		"command: [sh, -c, 'exec app --db=$DB_SERVICE_HOST:5432']":             "spec.containers[0].command[2]",
		"env: [{name: NO_PROXY, value: '10.0.0.0/8,192.168.0.0/16,fd00::/8'}]": "",
		"env: [{name: DB, value: 10.96.0.9}]":                                  "spec.containers[0].env[0].value",
		"env: [{name: BIND, value: '0.0.0.0:8080'}]":                           "",
		"env: [{name: V, value: 'v10.4.1.2-3, 1.2.3.4'}]":                      "",
		"args: [$(KUBERNETES_SERVICE_HOST), api.shop, '12:30:00']":             "",
	} {
		text := strings.Replace(pod, "FIELDS", fields, 1)
		if strings.HasPrefix(fields, "hostAliases") {
			text = strings.Replace(strings.Replace(pod, ", FIELDS", "", 1), "HOSTS", fields, 1)
		}
		items, err := (&kio.ByteReader{Reader: strings.NewReader(strings.Replace(text, "HOSTS", "", 1)), OmitReaderAnnotations: true}).Read()
		if err != nil {
			t.Fatal(err)
		}
		spec := v1alpha1.Spec{TrustDomain: "cluster.local", ClusterDomain: "cluster.local"}
		spec.Workloads.Overrides = api.Overrides
		r := &report.Report{}
		lint.Check(manifest.Build(items, spec, r), r)
		got := ""
		for _, f := range r.Findings() {
			if strings.Contains(f.Message, "passes beside the proxy") || strings.Contains(f.Message, "passes beside it") {
				got += f.Field
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", fields, got, want)
		}
	}
}
