package podsecurity_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	corev1 "k8s.io/api/core/v1"
	psaapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/kyaml/kio"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"
	"sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// testdata are golden cases of package pipeline.
const testdata = "../../fn/pipeline/testdata/"

// wanted is how many pods have to be found, so that no test passes for having none.
const wanted = 40

// TestNone: no level refuses a pod without redirect rules, in either form of the sidecar, if it does not refuse the
// app.
func TestNone(t *testing.T) {
	for _, mode := range []v1alpha1.SidecarMode{v1alpha1.NativeSidecar, v1alpha1.ContainerSidecar} {
		tested := 0
		for _, folder := range cases(t) {
			t.Run(string(mode)+"/"+filepath.Base(folder), func(t *testing.T) {
				for _, pod := range render(t, folder, func(c *v1alpha1.MutualTLS) { c.Spec.Redirect.Mode, c.Spec.Sidecar.Mode = v1alpha1.RedirectNone, mode }) {
					if pod.Annotations[api.RedirectAnnotation] == string(v1alpha1.RedirectRules) {
						continue // whatever the config says
					}
					tested++
					wantResolver(t, pod)
					wantRefused(t, pod, psaapi.LevelRestricted)
					wantRefused(t, pod, psaapi.LevelBaseline)
				}
			})
		}
		if tested < wanted {
			t.Errorf("%s: only %d pods without redirect rules were rendered", mode, tested)
		}
	}
}

// TestRules: an ordinary pod is refused for what docs/policy-tools.md lists of its init container, and for nothing
// else.
func TestRules(t *testing.T) {
	tested := 0
	for _, folder := range cases(t) {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			for _, pod := range render(t, folder, func(*v1alpha1.MutualTLS) {}) {
				if withoutRules(pod) {
					continue // the case is about such pods
				}
				tested++
				wantRefused(t, pod, psaapi.LevelRestricted, `unrestricted capabilities: container "meshless-init" must`, `runAsNonRoot != true: container "meshless-init" must`, `runAsUser=0: container "meshless-init" must`)
				wantRefused(t, pod, psaapi.LevelBaseline, `non-default capabilities: container "meshless-init" must`)
			}
		})
	}
	if tested < wanted {
		t.Errorf("only %d ordinary pods were rendered", tested)
	}
}

// TestControl: what a level refuses of an app, it refuses without redirect rules, too, and the one sysctl that such a
// pod sets is let in for its name.
func TestControl(t *testing.T) {
	pods := render(t, testdata+"pod", func(c *v1alpha1.MutualTLS) { c.Spec.Redirect.Mode = v1alpha1.RedirectNone })
	if len(pods) != 1 {
		t.Fatalf("%d pods", len(pods))
	}
	for name, c := range map[string]struct {
		spoil func(*corev1.PodSpec)
		want  string
	}{
		"root":           {func(p *corev1.PodSpec) { p.Containers[0].SecurityContext.RunAsUser = new(int64) }, "runAsUser=0: "},
		"a privilege":    {func(p *corev1.PodSpec) { p.Containers[0].SecurityContext.AllowPrivilegeEscalation = nil }, "allowPrivilegeEscalation != false: "},
		"no profile":     {func(p *corev1.PodSpec) { p.Containers[0].SecurityContext.SeccompProfile = nil }, "seccompProfile: "},
		"another sysctl": {func(p *corev1.PodSpec) { p.SecurityContext.Sysctls[0].Name = "net.ipv4.ip_forward" }, "forbidden sysctls: net.ipv4.ip_forward"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := pods[0].DeepCopy()
			c.spoil(&pod.Spec)
			wantRefused(t, *pod, psaapi.LevelRestricted, c.want)
		})
	}
}

// wantRefused wants a level to refuse a pod for these reasons, as they begin, in each of its versions since the first
// of native sidecars, and no other.
func wantRefused(t *testing.T, pod corev1.PodTemplateSpec, level psaapi.Level, want ...string) {
	t.Helper()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	versions := []psaapi.Version{psaapi.LatestVersion()}
	for minor := 29; minor <= 36; minor++ {
		versions = append(versions, psaapi.MajorMinorVersion(1, minor))
	}
	for _, version := range versions {
		result := policy.AggregateCheckResults(evaluator.EvaluatePod(psaapi.LevelVersion{Level: level, Version: version}, &pod.ObjectMeta, &pod.Spec))
		var got []string
		for i, reason := range result.ForbiddenReasons {
			got = append(got, reason+": "+result.ForbiddenDetails[i])
		}
		if !slices.EqualFunc(got, want, strings.HasPrefix) {
			t.Errorf("%s:%s refuses %s for %q, want %q", level, version.String(), pod.Name, got, want)
		}
	}
}

// withoutRules tells whether a pod has no redirect rules, as its init says.
func withoutRules(pod corev1.PodTemplateSpec) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool {
		return c.Name == api.InitName && len(c.Args) > 0 && c.Args[0] == podplan.InitResolver
	})
}

// wantResolver wants a pod of the mode that this is about.
func wantResolver(t *testing.T, pod corev1.PodTemplateSpec) {
	t.Helper()
	if !withoutRules(pod) {
		t.Errorf("%s: init makes rules", pod.Name)
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if c.Name == api.ProxyName && !slices.Contains(c.Args, "--no-redirect") {
			t.Errorf("%s: the proxy has the arguments %q", pod.Name, c.Args)
		}
	}
}

// cases are the golden cases that render.
func cases(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(testdata + "*/expected.yaml")
	if err != nil || len(found) == 0 {
		t.Fatalf("no golden cases found (%v)", err)
	}
	for i, file := range found {
		found[i] = filepath.Dir(file)
	}
	return found
}

// render renders a golden case with another config, and returns the pod templates that are injected, with apps that
// every level lets in. It skips a case that does not go with that config.
func render(t *testing.T, folder string, change func(*v1alpha1.MutualTLS)) []corev1.PodTemplateSpec {
	t.Helper()
	identities := []*age.X25519Identity{newIdentity(t), newIdentity(t)}
	text, err := os.ReadFile(filepath.Join(folder, "config.yaml"))
	if err != nil {
		text = []byte("{apiVersion: meshless.dev/v1alpha1, kind: MutualTLS, metadata: {name: mtls}, spec: {sealing: {recipients: [CLUSTER]}, certificates: {ca: {recipients: [CA_RECIPIENT]}}}}")
	}
	config, err := v1alpha1.Load(kyaml.MustParse(strings.NewReplacer("CLUSTER", identities[0].Recipient().String(), "CA_RECIPIENT", identities[1].Recipient().String()).Replace(string(text))))
	if err != nil {
		t.Fatal(err)
	}
	change(config)
	file, err := os.Open(filepath.Join(folder, "input.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	items, err := (&kio.ByteReader{Reader: file, OmitReaderAnnotations: true}).Read()
	if err != nil {
		t.Fatal(err)
	}
	r := &report.Report{}
	out := pipeline.Run(items, config, pipeline.Options{Now: time.Now(), Mode: pipeline.Store, CAIdentity: func() ([]age.Identity, error) { return []age.Identity{identities[1]}, nil }}, r)
	if r.Failed() {
		t.Skipf("does not go with that config: %s", strings.Join(r.Errors(), "\n"))
	}
	var pods []corev1.PodTemplateSpec
	for _, item := range out {
		value, err := item.String()
		if err != nil {
			t.Fatal(err)
		}
		var object any
		if err := yaml.Unmarshal([]byte(value), &object); err != nil {
			t.Fatal(err)
		}
		pods = append(pods, templates(t, item.GetName(), object)...)
	}
	return pods
}

func newIdentity(t *testing.T) *age.X25519Identity {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

// templates are the injected pods anywhere in an object.
func templates(t *testing.T, name string, object any) (found []corev1.PodTemplateSpec) {
	switch v := object.(type) {
	case []any:
		for _, x := range v {
			found = append(found, templates(t, name, x)...)
		}
	case map[string]any:
		if spec, ok := v["spec"].(map[string]any); ok && spec["containers"] != nil && spec["initContainers"] != nil {
			text, err := yaml.Marshal(v)
			var pod corev1.PodTemplateSpec
			if err == nil {
				err = yaml.Unmarshal(text, &pod)
			}
			if err != nil {
				t.Fatal(err)
			}
			if slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == api.InitName }) {
				pod.Name = name
				tame(&pod.Spec)
				return []corev1.PodTemplateSpec{pod}
			}
		}
		for _, x := range v {
			found = append(found, templates(t, name, x)...)
		}
	}
	return found
}

// tame makes a pod one that every level lets in, but for what a render added.
func tame(pod *corev1.PodSpec) {
	yes, no, user := true, false, int64(10001)
	var sysctls []corev1.Sysctl
	if pod.SecurityContext != nil {
		sysctls = pod.SecurityContext.Sysctls
	}
	pod.SecurityContext, pod.HostPID, pod.HostUsers = &corev1.PodSecurityContext{Sysctls: sysctls}, false, nil
	for _, list := range [][]corev1.Container{pod.InitContainers, pod.Containers} {
		for i := range list {
			if list[i].Name == api.InitName || list[i].Name == api.ProxyName {
				continue
			}
			list[i].SecurityContext = &corev1.SecurityContext{RunAsNonRoot: &yes, RunAsUser: &user, AllowPrivilegeEscalation: &no,
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
			for j := range list[i].Ports {
				list[i].Ports[j].HostPort = 0
			}
			for _, probe := range []*corev1.Probe{list[i].StartupProbe, list[i].LivenessProbe, list[i].ReadinessProbe} {
				if probe != nil && probe.HTTPGet != nil && probe.HTTPGet.Host == "example.org" {
					probe.HTTPGet.Host = "" // of the golden case; one of ours would be another
				}
			}
		}
	}
}
