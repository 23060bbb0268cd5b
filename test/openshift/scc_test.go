package openshift

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	securityv1 "github.com/openshift/api/security/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

const (
	example  = "../../examples/openshift/"
	testdata = "../../fn/pipeline/testdata/"
)

// TestForm: the example has the form of OpenShift's types and every field that its CRD wants, and its roles fit
// together.
func TestForm(t *testing.T) {
	documents := split(t, example+"scc.yaml")
	constraints, role, binding := read[securityv1.SecurityContextConstraints](t, documents[0]), read[rbacv1.ClusterRole](t, documents[1]), read[rbacv1.RoleBinding](t, split(t, example+"namespace.yaml")[0])
	fields := read[map[string]any](t, documents[0])
	required := requiredFields(t)
	if len(required) < 10 {
		t.Fatalf("the CRD wants only %q", required)
	}
	for _, field := range required {
		if _, has := fields[field]; !has {
			t.Errorf("lacks %s, which the CRD wants", field)
		}
	}
	if rule := role.Rules[0]; !slices.Equal(rule.ResourceNames, []string{constraints.Name}) || !slices.Equal(rule.Verbs, []string{"use"}) ||
		!slices.Equal(rule.APIGroups, []string{securityv1.GroupName}) || !slices.Equal(rule.Resources, []string{"securitycontextconstraints"}) {
		t.Errorf("the role allows %+v", rule)
	}
	if binding.RoleRef.Name != role.Name || binding.Subjects[0].Name != "system:serviceaccounts:"+binding.Namespace {
		t.Errorf("the binding gives %+v to %+v", binding.RoleRef, binding.Subjects)
	}
}

// requiredFields are those that the CRD of OpenShift's own module wants.
func requiredFields(t *testing.T) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/openshift/api").Output()
	if err != nil {
		t.Fatal(err)
	}
	crds, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "payload-manifests/crds/*securitycontextconstraints*.yaml"))
	if err != nil || len(crds) != 1 {
		t.Fatalf("found CRDs %q (%v)", crds, err)
	}
	crd := read[struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema struct{ Required []string }
				}
			}
		}
	}](t, split(t, crds[0])[0], lax)
	return crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Required
}

// TestPods: rendered pods fit into the example, those with iptables once NET_RAW is allowed, as the example says; and
// what the example has beyond restricted-v2 is needed.
func TestPods(t *testing.T) {
	constraints := read[securityv1.SecurityContextConstraints](t, split(t, example+"scc.yaml")[0])
	with := func(change func(*securityv1.SecurityContextConstraints)) *securityv1.SecurityContextConstraints {
		c := constraints.DeepCopy()
		change(c)
		return c
	}
	netRaw := with(func(c *securityv1.SecurityContextConstraints) {
		c.AllowedCapabilities = append(c.AllowedCapabilities, "NET_RAW")
	})
	noAdmin := with(func(c *securityv1.SecurityContextConstraints) {
		c.AllowedCapabilities = []corev1.Capability{"NET_BIND_SERVICE"}
	})
	ranged := with(func(c *securityv1.SecurityContextConstraints) {
		low, high := int64(1000680000), int64(1000689999)
		c.RunAsUser = securityv1.RunAsUserStrategyOptions{Type: securityv1.RunAsUserStrategyMustRunAsRange, UIDRangeMin: &low, UIDRangeMax: &high}
	})
	for name, c := range map[string]struct {
		golden      string
		constraints *securityv1.SecurityContextConstraints
		want        []string
	}{
		"native":                  {"services", &constraints, nil},
		"container":               {"container-mode", &constraints, nil},
		"DeploymentConfig":        {"custom-kinds", &constraints, nil},
		"guaranteed":              {"guaranteed", &constraints, nil},
		"iptables":                {"iptables", &constraints, []string{"meshless-init: may not add NET_RAW"}},
		"iptables, allowed":       {"iptables", netRaw, nil},
		"without NET_ADMIN":       {"services", noAdmin, []string{"meshless-init: may not add NET_ADMIN"}},
		"within the user's range": {"services", ranged, []string{"meshless-init: may not run as 0", "meshless-proxy: may not run as 15000"}},
	} {
		t.Run(name, func(t *testing.T) {
			var refused []string
			found := 0
			for _, document := range split(t, filepath.Join(testdata, c.golden, "expected.yaml")) {
				for _, pod := range pods(read[any](t, document)) {
					if found++; slices.ContainsFunc(pod.InitContainers, func(x corev1.Container) bool { return x.Name == "meshless-init" }) {
						refused = append(refused, refuses(c.constraints, pod)...)
					}
				}
			}
			slices.Sort(refused)
			if refused = slices.Compact(refused); found == 0 || !slices.Equal(refused, c.want) {
				t.Errorf("%d pods, refused for %q, want %q", found, refused, c.want)
			}
		})
	}
}

// refuses is what constraints refuse of a pod (OpenShift documentation, "Managing security context constraints"): of
// what it says itself, since what it does not say, admission sets.
func refuses(c *securityv1.SecurityContextConstraints, pod corev1.PodSpec) (list []string) {
	refuse := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	for _, v := range pod.Volumes {
		if kind := volumeKind(v); !slices.Contains(c.Volumes, kind) {
			refuse("volume of type %q", kind)
		}
	}
	if pod.HostNetwork && !c.AllowHostNetwork || pod.HostPID && !c.AllowHostPID || pod.HostIPC && !c.AllowHostIPC {
		refuse("namespaces of the host")
	}
	for _, x := range slices.Concat(pod.InitContainers, pod.Containers) {
		s := x.SecurityContext
		if s == nil || x.Name != "meshless-init" && x.Name != "meshless-proxy" {
			continue // what apps need is theirs
		}
		for _, added := range s.Capabilities.Add {
			if !slices.Contains(c.AllowedCapabilities, added) {
				refuse("%s: may not add %s", x.Name, added)
			}
		}
		for _, required := range c.RequiredDropCapabilities {
			if !slices.Contains(s.Capabilities.Drop, required) {
				refuse("%s: must drop %s", x.Name, required)
			}
		}
		if *s.Privileged && !c.AllowPrivilegedContainer || *s.AllowPrivilegeEscalation && !*c.AllowPrivilegeEscalation {
			refuse("%s: privileges", x.Name)
		}
		if profile := s.SeccompProfile.Type; profile != corev1.SeccompProfileTypeRuntimeDefault || !slices.Contains(c.SeccompProfiles, "runtime/default") {
			refuse("%s: seccomp profile %s", x.Name, profile)
		}
		if r := c.RunAsUser; r.Type == securityv1.RunAsUserStrategyMustRunAsRange && (*s.RunAsUser < *r.UIDRangeMin || *s.RunAsUser > *r.UIDRangeMax) {
			refuse("%s: may not run as %d", x.Name, *s.RunAsUser)
		}
	}
	return list
}

func volumeKind(v corev1.Volume) securityv1.FSType {
	switch {
	case v.Projected != nil:
		return securityv1.FSProjected
	case v.EmptyDir != nil:
		return securityv1.FSTypeEmptyDir
	case v.Secret != nil:
		return securityv1.FSTypeSecret
	case v.ConfigMap != nil:
		return securityv1.FSTypeConfigMap
	}
	return "another"
}

// pods are the specs of pods anywhere in a value.
func pods(value any) (found []corev1.PodSpec) {
	switch v := value.(type) {
	case []any:
		for _, one := range v {
			found = append(found, pods(one)...)
		}
	case map[string]any:
		if _, has := v["containers"]; has {
			text, err := yaml.Marshal(v)
			var spec corev1.PodSpec
			if err == nil && yaml.Unmarshal(text, &spec) == nil {
				found = append(found, spec)
			}
		}
		for _, one := range v {
			found = append(found, pods(one)...)
		}
	}
	return found
}

func split(t *testing.T, file string) []string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(data), "\n---\n")
}

// lax takes fields that the type lacks.
func lax(text []byte, into any) error { return yaml.Unmarshal(text, into) }

// read is a document of a type, which has all of its fields.
func read[T any](t *testing.T, text string, decode ...func([]byte, any) error) (out T) {
	t.Helper()
	how := func(text []byte, into any) error { return yaml.UnmarshalStrict(text, into) }
	for _, other := range decode {
		how = other
	}
	if err := how([]byte(text), &out); err != nil {
		t.Fatal(err)
	}
	return out
}
