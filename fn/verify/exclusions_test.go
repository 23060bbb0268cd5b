package verify_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/verify"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
)

// Where exclusions are forbidden, each workload that has one is an error of one line that lists them all, whether the
// config or an annotation said so; otherwise nothing is said.
func TestNoExclusions(t *testing.T) {
	annotated := func(lines ...string) string {
		text := "metadata:\n      annotations:\n        " + strings.Join(lines, "\n        ") + "\n      labels: {app: web}"
		return strings.Replace(manifests, "metadata:\n      labels: {app: web}", text, 1)
	}
	outside := strings.Replace(manifests, "annotations: {a: b}", "annotations: {meshless.dev/inject: disabled}", 1)
	nowhere := strings.ReplaceAll(strings.ReplaceAll(manifests, "  namespace: prod\n", ""), "namespace: ops", "namespace: default")
	for name, test := range map[string]struct {
		manifests string
		change    func(*v1alpha1.Spec)
		want      []string
	}{
		"none": {manifests, nil, nil},
		"annotations": {annotated(`meshless.dev/exclude-inbound-ports: "22"`, `meshless.dev/permissive-ports: "80,81"`, `meshless.dev/exclude-outbound-uids: "1001"`,
			`meshless.dev/exclude-outbound-cidrs: "fd00::/8,10.0.0.0/8"`, `meshless.dev/exclude-inbound-interfaces: net1`), nil, []string{
			"deployment prod/web: spec.template.spec: has exclusions (permissive ports 80-81; inbound ports 22; inbound interfaces net1; outbound networks 10.0.0.0/8,fd00::/8; outbound users 1001), which --no-exclusions forbids"}},
		"no rules": {annotated(`meshless.dev/redirect: None`), nil, []string{
			"deployment prod/web: spec.template.spec: has exclusions (outbound addresses that are not of DNS (meshless.dev/redirect: None)), which --no-exclusions forbids"}},
		"config": {manifests, func(s *v1alpha1.Spec) {
			s.Outbound.ExcludePorts = v1alpha1.PortList{{Ports: netset.PortsOf(25)}}
			s.Outbound.ExcludeInterfaces = []string{"tun0"}
			s.Outbound.ExcludeCIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		}, []string{"deployment prod/web: spec.template.spec: has exclusions (outbound ports 25; outbound networks 10.0.0.0/8; outbound interfaces tun0), which", "job ops/once: spec.template.spec: has exclusions (outbound ports 25; outbound"}},
		"permissive": {manifests, func(s *v1alpha1.Spec) { s.Inbound.Mode = meshmap.Permissive },
			[]string{"deployment prod/web: spec.template.spec: has exclusions (every port permissive)", "job ops/once: spec.template.spec: has exclusions (every port permissive)"}},
		"permissive without a namespace": {nowhere, func(s *v1alpha1.Spec) { s.Inbound.Mode = meshmap.Permissive },
			[]string{"deployment web: spec.template.spec: has exclusions (every port permissive)", "job default/once: spec.template.spec: has exclusions (every port permissive)"}},
		"inject: disabled": {outside, nil, []string{"job ops/once: is not in the mesh (meshless.dev/inject: disabled), which --no-exclusions forbids"}},
		"hostNetwork": {strings.Replace(manifests, "restartPolicy: Never", "restartPolicy: Never\n      hostNetwork: true", 1), nil,
			[]string{"job ops/once: is not in the mesh (hostNetwork: true), which --no-exclusions forbids"}},
		"Windows": {strings.Replace(manifests, "restartPolicy: Never", "restartPolicy: Never\n      nodeSelector: {kubernetes.io/os: windows}", 1), nil,
			[]string{"job ops/once: is not in the mesh (a Windows pod), which --no-exclusions forbids"}},
		"declared": {manifests + "---\napiVersion: postgresql.cnpg.io/v1\nkind: Cluster\nmetadata: {name: pg, namespace: prod}\nspec: {containers: [{name: c, image: i}]}\n", declare,
			[]string{"cluster prod/pg: template.spec: has exclusions (permissive ports 9187), which"}},
		"ports of UDP and SCTP": {strings.Replace(manifests, "ports: [{port: 80}]", "ports: [{port: 80, name: http}, {port: 53, name: dns, protocol: UDP}, {port: 36412, name: s1, protocol: SCTP}]", 1), nil,
			[]string{"service prod/web: spec.ports: has plaintext ports (53/UDP, 36412/SCTP), which --no-exclusions forbids"}},
		"unknown kind": {manifests + "---\napiVersion: example.com/v1\nkind: Runner\nmetadata: {name: a, namespace: prod}\nspec: {template: {spec: {containers: [{name: c, image: i}]}}}\n", nil,
			[]string{"runner prod/a: is not in the mesh (its kind is unknown), which"}},
	} {
		t.Run(name, func(t *testing.T) {
			change := test.change
			if change == nil {
				change = func(*v1alpha1.Spec) {}
			}
			text := renderedFrom(t, test.manifests, change)
			for _, forbidden := range []bool{true, false} {
				r := &report.Report{}
				verify.Check(parse(t, text), verify.Options{Now: now, EveryWorkload: true, NoExclusions: forbidden, Kinds: manifest.KindsOf(v1alpha1.Spec{})}, r)
				var said strings.Builder
				if err := r.WriteText(&said); err != nil {
					t.Fatal(err)
				}
				lines := slices.DeleteFunc(strings.Split(said.String(), "\n"), func(line string) bool { return !strings.HasPrefix(line, "error: ") })
				var want []string
				if forbidden {
					want = test.want
				}
				if len(lines) != len(want) {
					t.Fatalf("forbidden %v: got %d errors, want %d:\n%s", forbidden, len(lines), len(want), said.String())
				}
				for i := range want {
					if !strings.Contains(lines[i], want[i]) {
						t.Errorf("got %s\nwant %s", lines[i], want[i])
					}
				}
			}
		})
	}
}
