package pipeline_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
)

// app is a Deployment with a Service.
func app(namespace, name string) string {
	return "---\n{apiVersion: apps/v1, kind: Deployment, metadata: {name: " + name + ", namespace: " + namespace + "}, spec: {selector: {matchLabels: {app: " + name + "}}, template: {metadata: {labels: {app: " + name +
		"}}, spec: {containers: [{name: c, image: i}]}}}}\n" + serviceOf(namespace, name, name)
}

func serviceOf(namespace, name, app string) string {
	return "---\n{apiVersion: v1, kind: Service, metadata: {name: " + name + ", namespace: " + namespace + "}, spec: {selector: {app: " + app + "}, ports: [{port: 80}]}}\n"
}

// elsewhere are the texts of what belongs to every namespace but one.
func elsewhere(t testing.TB, items []*yaml.RNode, but string) map[report.Object]string {
	t.Helper()
	texts := map[report.Object]string{}
	for _, item := range items {
		if namespace := manifest.NamespaceOf(item); namespace != but && item.GetKind() != v1alpha1.KindCertificateAuthority {
			texts[report.ObjectOf(item)] = item.MustString()
		}
	}
	return texts
}

// Law: one more Service, workload or rule changes nothing that is rendered outside of its own namespace.
func TestOneMoreChangesItsNamespaceAlone(t *testing.T) {
	const rule = `
  authorization: {rules: [{to: {namespace: a, name: web}, from: [{namespace: b, name: web}]}]}`
	for name, more := range map[string]struct{ manifests, config string }{
		"a Service":  {serviceOf("a", "again", "web"), ""},
		"a workload": {app("a", "late"), ""},
		"a rule":     {"", rule},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			before, _ := w.mustRun(t, parse(t, app("a", "web")+app("b", "web")+app("c", "web")), w.config(t, plainConfig))
			w.now = w.now.Add(time.Hour)
			after, _ := w.mustRun(t, append(slices.Clone(before), parse(t, more.manifests)...), w.config(t, plainConfig+more.config))
			if was, is := elsewhere(t, before, "a"), elsewhere(t, after, "a"); !maps.Equal(was, is) {
				for object, text := range is {
					if was[object] != text {
						t.Errorf("%s changed:\n%s\nwas\n%s", object, text, was[object])
					}
				}
			}
			if text(t, before) == text(t, after) {
				t.Error("nothing changed at all")
			}
		})
	}
}

// meshOf is the mesh map of a namespace.
func meshOf(t testing.TB, items []*yaml.RNode, namespace string) *meshmap.Map {
	t.Helper()
	for _, item := range manifest.FindState(items).Meshes {
		if manifest.NamespaceOf(item) == namespace {
			mesh, err := meshmap.Parse([]byte(item.GetDataMap()[api.MeshFile]))
			if err != nil {
				t.Fatal(err)
			}
			return mesh
		}
	}
	t.Fatalf("no mesh map of %s", namespace)
	return nil
}

// The name of a package stays when everything of which it was made is another.
func TestPackageNameStays(t *testing.T) {
	w := newWorld(t)
	out, _ := w.mustRun(t, parse(t, app("a", "web")), w.config(t, plainConfig))
	name := meshOf(t, out, "a").Package
	other, _ := w.mustRun(t, parse(t, app("a", "api")), w.config(t, plainConfig))
	if meshOf(t, other, "a").Package == name {
		t.Error("two packages of one namespace have one name")
	}
	without := slices.DeleteFunc(slices.Clone(out), func(item *yaml.RNode) bool { return item.GetKind() == "Deployment" })
	again, _ := w.mustRun(t, append(without, parse(t, app("b", "late"))...), w.config(t, strings.Replace(plainConfig, "name: mtls", "name: other", 1)))
	if got := meshOf(t, again, "b").Package; got != name {
		t.Errorf("the package is called %q, and was %q", got, name)
	}
	state := manifest.FindState(again)
	if len(state.Members) != 1 || state.Members[0].GetName() != api.MembersName(name) || manifest.NamespaceOf(state.Members[0]) != "b" {
		t.Errorf("members Services: %v", state.Members)
	}
}

// Where nobody is in the mesh any more, its Services go with the rest.
func TestUnmeshedServicesGo(t *testing.T) {
	w := newWorld(t)
	out, _ := w.mustRun(t, parse(t, app("a", "web")), w.config(t, plainConfig))
	after, _ := w.mustRun(t, out, w.config(t, plainConfig+"  workloads: {exclude: [{name: '*'}]}\n"))
	for _, item := range after {
		if strings.HasPrefix(item.GetName(), api.NamePrefix) {
			t.Errorf("%s %s is left", item.GetKind(), item.GetName())
		}
		if strings.Contains(item.MustString(), api.PackageLabel) {
			t.Errorf("%s %s still carries the package's name", item.GetKind(), item.GetName())
		}
	}
}

// A Service that moves to a workload which runs already is said, once, with the way without refusals.
func TestMovedService(t *testing.T) {
	w := newWorld(t)
	with := func(items []*yaml.RNode, service string) []*yaml.RNode {
		kept := slices.DeleteFunc(slices.Clone(items), func(item *yaml.RNode) bool { return item.GetKind() == "Service" && item.GetName() == "web" })
		return append(kept, parse(t, service)...)
	}
	const said = "leads to deployment a/green now, which runs already"
	both := "---\n{apiVersion: v1, kind: Service, metadata: {name: web, namespace: a, annotations: {meshless.dev/workloads: 'deployment/web,deployment/green'}}, spec: {selector: {app: web}, ports: [{port: 80}]}}\n"
	before, _ := w.mustRun(t, parse(t, app("a", "web")+app("a", "green")), w.config(t, plainConfig))
	moved, r := w.mustRun(t, with(before, serviceOf("a", "web", "green")), w.config(t, plainConfig))
	if text := fmt.Sprint(r.Findings()); !strings.Contains(text, said) || !strings.Contains(text, "deployment/green beside") {
		t.Errorf("not said: %s", text)
	}
	if _, r := w.mustRun(t, moved, w.config(t, plainConfig)); strings.Contains(fmt.Sprint(r.Findings()), said) {
		t.Error("said again")
	}
	first, _ := w.mustRun(t, with(before, both), w.config(t, plainConfig))
	if _, r := w.mustRun(t, with(first, serviceOf("a", "web", "green")), w.config(t, plainConfig)); strings.Contains(fmt.Sprint(r.Findings()), said) {
		t.Error("said of the second commit")
	}
}

// What an overlay makes of our Services, names and selectors among it, a render takes back.
func TestServicesGetTheirFormBack(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	run := func(items []*yaml.RNode) []*yaml.RNode {
		r := &report.Report{}
		out := pipeline.Run(items, config, pipeline.Options{Now: w.now, Mode: pipeline.Store, SharedCA: true, CAIdentity: func() ([]age.Identity, error) { return []age.Identity{w.ca}, nil }}, r)
		if r.Failed() {
			t.Fatal(r.Errors())
		}
		return out
	}
	want := run(parse(t, app("a", "web")))
	moved := copies(want)
	for _, item := range moved {
		if item.GetAnnotations()[api.IdentityAnnotation] == "" || item.GetKind() == v1alpha1.KindCertificateAuthority {
			continue
		}
		if err := item.SetName("acme-" + item.GetName()); err != nil {
			t.Fatal(err)
		}
		if item.GetKind() == "Service" && item.Field("spec").Value.Field("selector") != nil {
			if err := item.PipeE(yaml.Lookup("spec", "selector"), yaml.SetField("app", yaml.NewStringRNode("acme"))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := text(t, run(moved)); got != text(t, want) {
		t.Errorf("got\n%s\nwant\n%s", got, text(t, want))
	}
}

// earlier makes of the state of a render what the edition before this one has left: other names, one map for all, no
// Services, no label.
func earlier(t testing.TB, items []*yaml.RNode) []*yaml.RNode {
	t.Helper()
	var old []*yaml.RNode
	for _, item := range copies(items) {
		pkg := item.GetAnnotations()[api.PackageAnnotation]
		switch {
		case item.GetKind() == "Service" && pkg != "":
			continue
		case item.GetKind() == "ConfigMap" && pkg != "":
			if err := item.SetName(strings.TrimSuffix(item.GetName(), "-"+pkg)); err != nil {
				t.Fatal(err)
			}
			if err := item.PipeE(yaml.ClearAnnotation(api.PackageAnnotation)); err != nil {
				t.Fatal(err)
			}
			if err := item.PipeE(yaml.ClearAnnotation(api.SharedAnnotation)); err != nil {
				t.Fatal(err)
			}
			if item.GetDataMap()[api.MeshFile] != "" {
				set(t, item, "apiVersion: meshless.dev/v1alpha1\nkind: Mesh\n", "data", api.MeshFile)
			}
		case item.GetKind() == "Deployment":
			text := strings.ReplaceAll(item.MustString(), ", meshless.dev/package: "+pkgOf(t, items), "")
			text = strings.ReplaceAll(text, "-"+pkgOf(t, items), "")
			item = yaml.MustParse(text)
		}
		old = append(old, item)
	}
	return old
}

func pkgOf(t testing.TB, items []*yaml.RNode) string {
	t.Helper()
	return manifest.FindState(items).Bundles[0].GetAnnotations()[api.PackageAnnotation]
}

// TestUpgrade: state of the edition before this one gets its names; Secrets and the CertificateAuthority keep their
// bytes. A build before the first issue makes the same names as that.
func TestUpgrade(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	fresh, _ := w.mustRun(t, parse(t, app("a", "web")+app("b", "web")), config)
	old := earlier(t, fresh)
	if text := text(t, old); strings.Contains(text, api.PackageLabel) || strings.Contains(text, pkgOf(t, fresh)) {
		t.Fatalf("the state of the edition before:\n%s", text)
	}
	issued, r := w.mustRun(t, old, config)
	if len(r.Results()) > 0 {
		t.Errorf("it says %v", r.Results())
	}
	if got, want := text(t, issued), text(t, fresh); len(got) != len(want) || pkgOf(t, issued) == "" {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, item := range fresh {
		if item.GetKind() == "Secret" || item.GetKind() == v1alpha1.KindCertificateAuthority {
			if !strings.Contains(text(t, issued), text(t, []*yaml.RNode{item})) {
				t.Errorf("%s %s changed", item.GetKind(), item.GetName())
			}
		}
	}
	w.built = true
	authority := func(item *yaml.RNode) bool { return item.GetKind() == v1alpha1.KindCertificateAuthority }
	built, _ := w.mustRun(t, append(slices.DeleteFunc(old, authority), parse(t, app("a", "late"))[1:]...), config)
	if got, want := pkgOf(t, built), pkgOf(t, issued); got != want {
		t.Errorf("a build calls the package %q, and the issue %q", got, want)
	}
}

// TestSharedCAOutOfSight: kpt shows a function the package without the CertificateAuthority that it shares. With
// nothing due it renders; what is due is said, with the command that has both.
func TestSharedCAOutOfSight(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, plainConfig)
	run := func(items []*yaml.RNode, mode pipeline.Mode, shared bool) ([]*yaml.RNode, *report.Report) {
		r := &report.Report{}
		return pipeline.Run(items, config, pipeline.Options{Now: w.now, Mode: mode, SharedCA: shared, CAIdentity: func() ([]age.Identity, error) { return []age.Identity{w.ca}, nil }}, r), r
	}
	issued, r := run(parse(t, app("a", "web")), pipeline.Store, true)
	if r.Failed() {
		t.Fatal(r.Errors())
	}
	seen := withoutKind(issued, "CertificateAuthority")
	if out, r := run(copies(seen), pipeline.StoreOrCheck, false); r.Failed() || len(r.Findings()) > 0 || text(t, out) != text(t, seen) {
		t.Errorf("nothing is due: %v", r.Findings())
	}
	if _, r := run(append(copies(seen), parse(t, app("a", "api"))...), pipeline.StoreOrCheck, false); !strings.Contains(strings.Join(r.Errors(), "\n"), "Run `meshless issue --ca FILE DIR`") {
		t.Errorf("a workload without a certificate: %v", r.Errors())
	}
	if _, r := run(copies(seen), pipeline.Store, false); !strings.Contains(strings.Join(r.Errors(), "\n"), "name its file: `meshless issue --ca FILE`") {
		t.Errorf("meshless issue without --ca: %v", r.Errors())
	}
	w.now = w.now.Add(20 * 24 * time.Hour)
	_, r = run(copies(seen), pipeline.StoreOrCheck, false)
	if said := fmt.Sprint(r.Findings()); r.Failed() || !strings.Contains(said, "is due for renewal") || !strings.Contains(said, "meshless issue --ca FILE DIR") {
		t.Errorf("a leaf is due: %v", r.Findings())
	}
}

// TestSharedCAInEveryMode: whoever renders, and whether it sees the CertificateAuthority or not, maps and Services come
// out the same.
func TestSharedCAInEveryMode(t *testing.T) {
	w := newWorld(t)
	identity := func() ([]age.Identity, error) { return []age.Identity{w.ca}, nil }
	run := func(items []*yaml.RNode, config *v1alpha1.MutualTLS, mode pipeline.Mode, shared bool) []*yaml.RNode {
		t.Helper()
		r := &report.Report{}
		out := pipeline.Run(items, config, pipeline.Options{Now: w.now, Mode: mode, SharedCA: shared, CAIdentity: identity}, r)
		if r.Failed() {
			t.Fatal(r.Errors())
		}
		return out
	}
	config := w.config(t, plainConfig)
	isAuthority := func(item *yaml.RNode) bool { return item.GetKind() == v1alpha1.KindCertificateAuthority }
	issued := slices.DeleteFunc(run(parse(t, app("a", "web")+app("b", "db")), config, pipeline.Store, true), isAuthority)
	if !meshOf(t, issued, "a").SharedCA || len(manifest.FindState(issued).Aliases) != 2 {
		t.Fatalf("issued:\n%s", text(t, issued))
	}
	never := *config
	never.Spec.Issuance = v1alpha1.IssuanceNever
	derived := func(item *yaml.RNode) bool { // what a kustomization does not store
		return item.GetAnnotations()[api.PackageAnnotation] != "" && item.GetDataMap()[api.BundleFile] == ""
	}
	sorted := func(items []*yaml.RNode) []string { return slices.Sorted(strings.SplitSeq(text(t, items), "\n")) }
	for name, got := range map[string][]*yaml.RNode{
		"build":             run(issued, config, pipeline.Build, false),
		"build of a state":  run(slices.DeleteFunc(copies(issued), derived), config, pipeline.Build, false),
		"with issuance off": run(issued, &never, pipeline.StoreOrCheck, false),
		"kpt fn render":     run(issued, config, pipeline.StoreOrCheck, false),
	} {
		if want := sorted(issued); !slices.Equal(sorted(got), want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, text(t, got), text(t, issued))
		}
	}
	own := run(parse(t, app("a", "web")), config, pipeline.Store, false)
	if meshOf(t, own, "a").SharedCA || len(manifest.FindState(own).Aliases) != 0 {
		t.Errorf("a package with a CA of its own:\n%s", text(t, own))
	}
	// it joins others, and leaves them
	joined := run(own, config, pipeline.Store, true)
	left := run(joined, config, pipeline.Store, false)
	if !meshOf(t, joined, "a").SharedCA || text(t, left) != text(t, own) {
		t.Errorf("joined:\n%s\nleft:\n%s", text(t, joined), text(t, left))
	}
}

// Only what deviates of other namespaces is in a map.
func TestMapsOfOthers(t *testing.T) {
	w := newWorld(t)
	const outsider = "---\n{apiVersion: v1, kind: Pod, metadata: {name: old, namespace: b, labels: {app: old}, annotations: {meshless.dev/inject: disabled}}, spec: {containers: [{name: c, image: i}]}}\n" +
		"---\n{apiVersion: v1, kind: Service, metadata: {name: old, namespace: b}, spec: {selector: {app: old}, ports: [{port: 80}]}}\n"
	fixed := strings.Replace(serviceOf("b", "fixed", "web"), "spec: {", "spec: {clusterIP: 10.96.0.9, ", 1)
	open := strings.Replace(app("b", "open"), "{labels:", "{annotations: {meshless.dev/exclude-inbound-ports: '80'}, labels:", 1)
	out, _ := w.mustRun(t, parse(t, app("a", "web")+app("b", "web")+fixed+open+outsider), w.config(t, plainConfig+"  outbound: {plaintextServices: [x.elsewhere], clusterCIDRs: [2001:db8::/32]}\n"))
	hosts := func(namespace string) (list []string) {
		for _, s := range meshOf(t, out, namespace).Services {
			list = append(list, strings.TrimSuffix(s.Host, ".svc.cluster.local"))
		}
		return list
	}
	if got, want := hosts("a"), []string{"fixed.b", "open.b", "web.a"}; !slices.Equal(got, want) {
		t.Errorf("the map of a lists %v, want %v", got, want)
	}
	if got, want := hosts("b"), []string{"fixed.b", "open.b", "web.b"}; !slices.Equal(got, want) {
		t.Errorf("the map of b lists %v, want %v", got, want)
	}
	for _, namespace := range []string{"a", "b"} {
		mesh := meshOf(t, out, namespace)
		if want := []string{"old.b", "x.elsewhere"}; !slices.Equal(mesh.Outside, want) || len(mesh.Outbound.ClusterCIDRs) != 1 || len(mesh.Namespaces) != 1 || mesh.Namespaces[0] == namespace {
			t.Errorf("the map of %s: %+v", namespace, mesh)
		}
	}
}

// A pod with transparent ports is told so twice, its init and its proxy, and the render says what it costs.
func TestTransparentPorts(t *testing.T) {
	w := newWorld(t)
	redis := strings.Replace(app("a", "redis"), "{labels:", "{annotations: {meshless.dev/transparent-ports: '6379,16379'}, labels:", 1)
	out, report := w.mustRun(t, parse(t, redis), w.config(t, plainConfig))
	if all := text(t, out); strings.Count(all, "--transparent-ports=6379,16379") != 1 || !strings.Contains(all, `transparentPorts`) {
		t.Errorf("init or proxy are not told:\n%s", all)
	}
	if said := fmt.Sprint(report); !strings.Contains(said, "otherwise takes NET_RAW") {
		t.Errorf("the render says %s", said)
	}
}

// Init and proxy of each pod are told the same networks of client addresses, and nothing where the config says none.
func TestClientCIDRs(t *testing.T) {
	for said, want := range map[string]int{"": 0, "  inbound: {clientCIDRs: [100.64.0.0/16]}\n": 2, "  outbound: {clusterCIDRs: [198.18.0.0/15]}\n": 2} {
		w := newWorld(t)
		out, _ := w.mustRun(t, parse(t, app("a", "web")), w.config(t, plainConfig+said))
		if got := strings.Count(text(t, out), "--client-cidrs="); got != want {
			t.Errorf("%q: %d flags, want %d", said, got, want)
		}
	}
}

// TestMistypedServiceAnnotation: an annotation that a Service does not take is refused, the mark of an injection too.
func TestMistypedServiceAnnotation(t *testing.T) {
	for _, key := range []string{api.WorkloadAnnotation, api.PermissivePortsAnnotation, api.WorkloadsAnnotation + "s"} {
		w := newWorld(t)
		text := strings.Replace(app("a", "web"), "kind: Service, metadata: {", "kind: Service, metadata: {annotations: {"+key+": deployment/web}, ", 1)
		_, r := w.run(parse(t, text), w.config(t, plainConfig))
		if want := "service a/web: metadata.annotations[" + key + "]: has no effect on a Service"; !strings.Contains(fmt.Sprint(r.Errors()), want) {
			t.Errorf("%s: said %v", key, r.Errors())
		}
	}
}
