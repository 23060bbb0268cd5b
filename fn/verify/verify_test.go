package verify_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/verify"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const manifests = `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: prod
spec:
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
      - name: app
        image: web:1
        readinessProbe:
          httpGet: {path: /healthz, port: 80}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: prod}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: once
  namespace: ops
spec:
  template:
    metadata:
      annotations: {a: b}
    spec:
      restartPolicy: Never
      containers:
      - name: c
        image: i
`

// rendered is what the function makes of the manifests, as text.
func rendered(t *testing.T) string { return renderedAs(t, v1alpha1.NativeSidecar) }

func renderedAs(t *testing.T, mode v1alpha1.SidecarMode) string {
	t.Helper()
	return renderedWith(t, func(spec *v1alpha1.Spec) { spec.Sidecar.Mode = mode })
}

// renderedWith is what the function makes of the manifests with a changed config.
func renderedWith(t *testing.T, change func(*v1alpha1.Spec)) string {
	t.Helper()
	return renderedFrom(t, manifests, change)
}

// renderedFrom is the same of other manifests.
func renderedFrom(t *testing.T, manifests string, change func(*v1alpha1.Spec)) string {
	t.Helper()
	text, _ := renderedBy(t, manifests, change)
	return text
}

// renderedBy is renderedFrom with the config.
func renderedBy(t *testing.T, manifests string, change func(*v1alpha1.Spec)) (string, *v1alpha1.MutualTLS) {
	t.Helper()
	return renderedFor(t, manifests, change, pipeline.Options{Now: now, Mode: pipeline.Store})
}

// renderedFor is renderedBy with other options. Without the CertificateAuthority where others share it.
func renderedFor(t testing.TB, manifests string, change func(*v1alpha1.Spec), o pipeline.Options) (string, *v1alpha1.MutualTLS) {
	t.Helper()
	recipient := func() string {
		identity, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		return identity.Recipient().String()
	}
	config, err := v1alpha1.Load(yaml.MustParse("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {recipients: " + recipient() + ", caRecipients: " + recipient() + "}"))
	if err != nil {
		t.Fatal(err)
	}
	change(&config.Spec)
	r := &report.Report{}
	out := pipeline.Run(parse(t, manifests), config, o, r)
	if r.Failed() {
		t.Fatal(r.Errors())
	}
	if o.SharedCA {
		out = slices.DeleteFunc(out, func(item *yaml.RNode) bool { return item.GetKind() == v1alpha1.KindCertificateAuthority })
	}
	text, err := kio.StringAll(out)
	if err != nil {
		t.Fatal(err)
	}
	return text, config
}

func parse(t testing.TB, text string) []*yaml.RNode {
	t.Helper()
	items, err := (&kio.ByteReader{Reader: strings.NewReader(text), OmitReaderAnnotations: true}).Read()
	if err != nil {
		t.Fatal(err)
	}
	return items
}

// bundleOf is the document of prod's bundle.
func bundleOf(t *testing.T, text string) string {
	t.Helper()
	for part := range strings.SplitSeq(text, "\n---\n") {
		if strings.Contains(part, "name: meshless-bundle-uvdhs\n  namespace: prod") {
			return part
		}
	}
	t.Fatal("no bundle")
	return ""
}

// Each way in which rendered manifests can be wrong is noticed; the same manifests untouched are not complained of.
func TestCheck(t *testing.T) {
	good := rendered(t)
	document := func(mark string) string { // the YAML document that holds a text
		for part := range strings.SplitSeq(good, "\n---\n") {
			if strings.Contains(part, mark) {
				return part
			}
		}
		t.Fatalf("no document holds %q", mark)
		return ""
	}
	without := func(mark string) string { return strings.Replace("\n---\n"+good, "\n---\n"+document(mark), "", 1) }
	replace := func(old, with string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the rendered manifests hold no %q", old)
		}
		return strings.Replace(good, old, with, 1)
	}
	later := func(d time.Duration) time.Time { return now.Add(d) }
	const alias = "apiVersion: v1\nkind: Service\nmetadata: {name: meshless-alias-web, namespace: prod, annotations: {meshless.dev/identity: 'spiffe://cluster.local', meshless.dev/package: uvdhs}}\n" +
		"spec: {type: ExternalName, externalName: web.prod.svc.cluster.local}\n"
	const outsider = "apiVersion: v1\nkind: Pod\nmetadata: {name: old, namespace: prod, labels: {app: old}, annotations: {meshless.dev/inject: disabled}}\nspec: {containers: [{name: c, image: i}]}\n" +
		"---\napiVersion: v1\nkind: Service\nmetadata: {name: old, namespace: prod}\nspec: {selector: {app: old}, ports: [{port: 80}]}\n"
	leafItems := "- key: tls.key.age\n                path: tls.key.age\n              name: meshless-deployment-web"
	for name, test := range map[string]struct {
		text string
		at   time.Time
		want string
	}{
		"untouched":           {good, now, ""},
		"a day later":         {good, later(24 * time.Hour), ""},
		"expired":             {good, later(721 * time.Hour), "expired at"},
		"not injected":        {manifests, now, "is not in the mesh"},
		"opted out":           {strings.Replace(strings.Replace(manifests, "labels: {app: web}\n    spec", "annotations: {meshless.dev/inject: disabled}\n    spec", 1), "{a: b}", "{meshless.dev/inject: disabled}", 1), now, ""},
		"nothing":             {"", now, "there is no workload in the input"},
		"no manifest":         {"a: b\n", now, "lacks apiVersion or kind"},
		"no object":           {"- a\n- b\n", now, "is no object"},
		"a list":              {"apiVersion: apps/v1\nkind: DeploymentList\nitems: [{spec: 1}]\n---\n" + good, now, "is a list"},
		"two exported Lists":  {good + "---\napiVersion: v1\nkind: List\nitems: []\n---\napiVersion: v1\nkind: List\nitems: []\n", now, ""},
		"orphaned Secret":     {without("kind: Job"), now, "and no injected workload of that identity is in the input"},
		"twice":               {good + "---\n" + document("kind: Service"), now, "stands twice"},
		"repeated key":        {good + "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {a: 1}\nspec: {a: 2}\n", now, `holds the key "spec" twice`},
		"sidecar renamed":     {replace("- name: meshless-proxy", "- name: proxy"), now, "spec.template.spec.initContainers: lacks the container meshless-proxy"},
		"half injected":       {replace("meshless.dev/workload: |", "other/workload: |"), now, "is half injected"},
		"renamed afterwards":  {replace("kind: Deployment\nmetadata:\n  name: web", "kind: Deployment\nmetadata:\n  name: web2"), now, "is not what its identity"},
		"moved afterwards":    {strings.ReplaceAll(good, "namespace: prod", "namespace: other"), now, "is not what its identity"},
		"kind changed":        {replace("apps/v1\nkind: Deployment", "apps/v1\nkind: StatefulSet"), now, "is not what its identity"},
		"proxy's user":        {replace("runAsUser: 15000", "runAsUser: 1000"), now, "runAsUser: is 1000, and must be 15000"},
		"proxy as root":       {replace("runAsUser: 15000", "runAsUser: 0"), now, "runAsUser: is 0, and must be 15000; the proxy runs as a user of its own"},
		"proxy not native":    {replace("restartPolicy: Always", "restartPolicy: Never"), now, "spec.template.spec.initContainers[1].restartPolicy: is \"Never\", and must be \"Always\""},
		"proxy's files":       {replace("mountPath: /var/run/meshless", "mountPath: /elsewhere"), now, "volumeMounts[0].mountPath: is \"/elsewhere\", and must be \"/var/run/meshless\""},
		"init unprivileged":   {replace("- NET_ADMIN", "- NET_RAW"), now, "must be \"NET_ADMIN\"; init needs uid 0 and the capability NET_ADMIN"},
		"init's arguments":    {replace("- --proxy-uid=15000", "- --proxy-uid=1"), now, "spec.template.spec.initContainers[1].securityContext.runAsUser: is 15000, and must be 1"},
		"in another case":     {strings.ReplaceAll(replace("- NET_ADMIN", "- Net_Admin"), "- ALL", "- all"), now, ""},
		"init's mapped IPv4":  {replace("- --proxy-uid=15000", "- --proxy-uid=15000\n        - --exclude-outbound-cidrs=::ffff:10.0.0.0/104"), now, "write it as an IPv4 network, 10.0.0.0/8"},
		"init's nonsense":     {replace("- --proxy-uid=15000", "- --off"), now, "args:"},
		"app as the proxy":    {replace("- name: app\n", "- name: app\n        securityContext: {runAsUser: 15000}\n"), now, "runs as uid 15000, which is the proxy's"},
		"app reads the key":   {replace("- name: app\n", "- name: app\n        volumeMounts: [{name: meshless, mountPath: /x}]\n"), now, "which holds the proxy's identity"},
		"probe at the app":    {replace("path: /handlers/app/readinessProbe\n            port: 15021", "path: /healthz\n            port: 80"), now, "does not go through the proxy's health port"},
		"volume gone":         {replace("- name: meshless\n", "- name: other\n"), now, "lacks the projected volume"},
		"key source gone":     {replace(leafItems, "name: meshless-deployment-web"), now, "from one Secret"},
		"identity source":     {replace("path: identity.txt", "path: other.txt"), now, "lacks the Secret with the file identity.txt"},
		"another's Secret":    {replace(leafItems, strings.Replace(leafItems, "deployment-web", "job-once", 1)), now, `mounts secret "meshless-job-once"`},
		"another bundle":      {replace("path: ca.crt\n              name: meshless-bundle-uvdhs", "path: ca.crt\n              name: other"), now, `must mount configmap "meshless-bundle-uvdhs"`},
		"Secret gone":         {without("name: meshless-deployment-web\n  namespace"), now, `mounts secret "meshless-deployment-web", which is not among the manifests`},
		"bundle gone":         {without("name: meshless-bundle-uvdhs\n  namespace: prod"), now, `must mount configmap "meshless-bundle-uvdhs"`},
		"map gone":            {without("name: meshless-mesh-uvdhs\n  namespace: ops"), now, `must mount configmap "meshless-mesh-uvdhs"`},
		"map damaged":         {replace("mode: Strict", "mode: Lax"), now, `"Lax" is neither Strict nor Permissive`},
		"Service not in map":  {replace("web: deployment/web :80", "api: deployment/web :80"), now, "service web.prod.svc.cluster.local is missing, and must be {"},
		"who may answer":      {replace("web: deployment/web :80", "web: deployment/api :80"), now, "service web.prod.svc.cluster.local: identities is \"[spiffe://cluster.local/ns/prod/deployment/api]\", and must be \"[spiffe://cluster.local/ns/prod/deployment/web]\""},
		"shadowed bundle":     {good + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: meshless-bundle, namespace: else}\n", now, "is the name of a ConfigMap of meshless"},
		"label gone":          {replace("labels: {app: web, meshless.dev/package: uvdhs}", "labels: {app: web}"), now, "metadata.labels[meshless.dev/package]: is missing"},
		"another package":     {replace("labels: {app: web, meshless.dev/package: uvdhs}", "labels: {app: web, meshless.dev/package: other}"), now, `is "other", and the mesh map of the namespace is of package "uvdhs"`},
		"members gone":        {without("name: meshless-members-uvdhs\n  namespace: ops"), now, "service ops/meshless-members-uvdhs: is missing"},
		"members of others":   {replace("  selector:\n    meshless.dev/package: uvdhs", "  selector:\n    app: web"), now, "spec.selector.app: is \"web\", and must not be there"},
		"only ready members":  {replace("publishNotReadyAddresses: true", "publishNotReadyAddresses: false"), now, "spec.publishNotReadyAddresses: is false, and must be true"},
		"planted members":     {good + "---\napiVersion: v1\nkind: Service\nmetadata: {name: meshless-members-x, namespace: prod}\n", now, "is the name of a Service of meshless"},
		"planted alias":       {good + "---\n" + alias, now, "is a Service of meshless that the manifests do not ask for"},
		"shared in one map":   {replace("    package: uvdhs\n", "    package: uvdhs\n    sharedCA: true\n"), now, "sharedCA is"},
		"shared bundle":       {replace("cluster.local\n    meshless.dev/package: uvdhs\n", "cluster.local\n    meshless.dev/package: uvdhs\n    meshless.dev/shared-ca: \"true\"\n"), now, "metadata.annotations[meshless.dev/shared-ca]: is"},
		"map of another":      {replace("    namespace: ops\n", "    namespace: web\n"), now, `is the map of namespace "web", and lies in "ops"`},
		"namespaces":          {replace("    namespaces:\n    - prod\n", ""), now, "namespaces is"},
		"called outside":      {strings.ReplaceAll(good, "    package: uvdhs\n", "    outside: [web.prod]\n    package: uvdhs\n"), now, "outside lists web.prod, behind which are workloads of the mesh"},
		"outside is missing":  {good + "---\n" + outsider, now, "outside lacks old.prod"},
		"earlier edition":     {good + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: meshless-mesh, namespace: prod, annotations: {meshless.dev/identity: 'spiffe://cluster.local'}}\ndata: {mesh.yaml: 'kind: Mesh'}\n", now, "is no mesh map of this edition"},
		"wrong identity":      {replace("meshless.dev/identity: spiffe://cluster.local/ns/prod/deployment/web", "meshless.dev/identity: spiffe://cluster.local/ns/prod/deployment/api"), now, "and the Secret is for"},
		"no sealed key":       {regexp.MustCompile("tls.key.age: L.*").ReplaceAllString(good, "other: aGk="), now, "is not an armored age file"},
		"key in the clear":    {replace("data:\n  tls.crt", "stringData: {tls.key: '-----BEGIN PRIVATE KEY-----'}\ndata:\n  tls.crt"), now, "holds a private key in the clear"},
		"age identity":        {good + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData: {a: AGE-SECRET-KEY-1QQ}\n", now, "holds an age identity"},
		"another CA":          {strings.Replace(good, document("name: meshless-bundle-uvdhs\n  namespace: prod"), bundleOf(t, rendered(t)), 1), now, "is signed by no authority of the bundle"},
		"leaf without bundle": {document("name: meshless-deployment-web\n  namespace"), now, "there is no bundle"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &report.Report{}
			verify.Check(parse(t, test.text), verify.Options{Now: test.at, EveryWorkload: true, Kinds: manifest.KindsOf(v1alpha1.Spec{})}, r)
			said := strings.Join(r.Errors(), "\n")
			if (test.want == "") != (said == "") || !strings.Contains(said, test.want) {
				t.Errorf("got %q, want %q", said, test.want)
			}
		})
	}
}

// The same for a sidecar that is a plain container.
func TestCheckContainerMode(t *testing.T) {
	good := renderedAs(t, v1alpha1.ContainerSidecar)
	replace := func(old, with string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the rendered manifests hold no %q", old)
		}
		return strings.Replace(good, old, with, 1)
	}
	const wait, drain, app, inits = "- /meshless-proxy\n              - wait", "- /meshless-proxy\n              - drain", "      - name: app\n        image: web:1\n", "      initContainers:\n"
	for name, test := range map[string]struct{ text, want string }{
		"untouched":         {good, ""},
		"app first":         {strings.Replace(replace(app, "      - name: app2\n        image: web:1\n"), "      containers:\n", "      containers:\n"+app, 1), "spec.template.spec.containers: is [\"app\",\"meshless-proxy\",\"app2\"], and must be [\"meshless-proxy\",\"app\",\"app2\"]"},
		"init not last":     {replace("        terminationMessagePolicy: FallbackToLogsOnError\n      volumes:", "        terminationMessagePolicy: FallbackToLogsOnError\n      - name: late\n        image: i\n      volumes:"), "initContainers: is [\"meshless-init\",\"late\"], and must be [\"late\",\"meshless-init\"]; it must end with meshless-init"},
		"init gone":         {replace("- name: meshless-init", "- name: init"), "spec.template.spec.initContainers: lacks the container meshless-init"},
		"user's init first": {replace(inits, inits+"      - name: early\n        image: i\n"), ""},
		"no wait":           {replace(wait, "- /meshless-proxy"), "lifecycle.postStart.exec.command[1]: is missing, and must be \"wait\"; it lets the app start only once mutual TLS works"},
		"another wait":      {replace(wait, "- /bin/true"), "lifecycle.postStart.exec.command[0]: is \"/bin/true\", and must be \"/meshless-proxy\""},
		"wait's nonsense":   {replace(wait, wait+"\n              - forever"), "lifecycle.postStart.exec.command[2]: is \"forever\", and must not be there"},
		"drain at start":    {replace(wait, drain), "lifecycle.postStart.exec.command[1]: is \"drain\", and must be \"wait\""},
		"wait at the end":   {replace(drain, wait), "lifecycle.preStop.exec.command[1]: is \"wait\", and must be \"drain\"; it keeps the proxy"},
		"no hooks":          {replace("lifecycle:", "unknown:"), "spec.template.spec.containers[0].lifecycle: is missing"},
		"restartPolicy":     {replace("- name: meshless-proxy\n", "- name: meshless-proxy\n        restartPolicy: Always\n"), "restartPolicy: is \"Always\", and must not be there"},
		"proxy as root":     {replace("runAsUser: 15000", "runAsUser: 0"), "runAsUser: is 0, and must be 15000; the proxy runs as a user of its own"},
		"app as the proxy":  {replace("- name: app\n", "- name: app\n        securityContext: {runAsUser: 15000}\n"), "runs as uid 15000, which is the proxy's"},
		"init as the proxy": {replace(inits, inits+"      - name: early\n        image: i\n        securityContext: {runAsUser: 15000}\n"), "runs as uid 15000, which is the proxy's"},
		"probe at the app":  {replace("path: /handlers/app/readinessProbe\n            port: 15021", "path: /healthz\n            port: 80"), "does not go through the proxy's health port"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &report.Report{}
			verify.Check(parse(t, test.text), verify.Options{Now: now, EveryWorkload: true, Kinds: manifest.KindsOf(v1alpha1.Spec{})}, r)
			said := strings.Join(r.Errors(), "\n")
			if (test.want == "") != (said == "") || !strings.Contains(said, test.want) {
				t.Errorf("got %q, want %q", said, test.want)
			}
		})
	}
}

// TestSeveralPackages: the manifests of two packages at once are one finding, which says what to do.
func TestSeveralPackages(t *testing.T) {
	for name, other := range map[string]string{"one namespace": "prod", "two namespaces": "pay"} {
		second := strings.NewReplacer("name: web", "name: db", "app: web", "app: db", "namespace: prod", "namespace: "+other, "namespace: ops", "namespace: "+other).Replace(manifests)
		text := rendered(t) + "---\n" + renderedFrom(t, second, func(*v1alpha1.Spec) {})
		if got := findings(t, text, true); strings.Count(got, "\n") != 1 || !strings.Contains(got, ": verify each package on its own") {
			t.Errorf("%s: said %q", name, got)
		}
	}
}
