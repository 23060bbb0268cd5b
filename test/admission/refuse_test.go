package admission_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/internal/api"
)

func podOf(t testing.TB, spec string) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pg-1", Namespace: "shop", Labels: map[string]string{"app": "pg"}}}
	if err := yaml.UnmarshalStrict([]byte(spec), &pod.Spec); err != nil {
		t.Fatal(err)
	}
	return pod
}

// unservable are pods that a render refuses as templates, each with words of the refusal.
var unservable = map[string]struct{ spec, want string }{
	"host network":      {"{hostNetwork: true, containers: [{name: a}]}", "hostNetwork: "},
	"Windows":           {"{os: {name: windows}, containers: [{name: a}]}", "a Windows pod"},
	"Windows by node":   {"{nodeSelector: {kubernetes.io/os: windows}, containers: [{name: a}]}", "a Windows pod"},
	"the pod's user":    {"{securityContext: {runAsUser: 15000}, containers: [{name: a}]}", "the pod runs as uid 15000"},
	"a container's":     {"{containers: [{name: a}, {name: b, securityContext: {runAsUser: 15000}}]}", "containers b: run as uid 15000"},
	"an init container": {"{initContainers: [{name: i, securityContext: {runAsUser: 15000}}], containers: [{name: a}]}", "containers i: run as uid 15000"},
	"reserved port":     {"{containers: [{name: a, ports: [{containerPort: 15001}]}]}", "containers a: use a port that is the proxy's"},
	"another mesh":      {"{initContainers: [{name: linkerd-init}], containers: [{name: a}]}", "containers linkerd-init: are another mesh's"},
	"name":              {"{containers: [{name: a}, {name: meshless-wait}]}", "containers meshless-wait: have a name of meshless"},
	"volume":            {"{containers: [{name: a}], volumes: [{name: meshless, emptyDir: {}}]}", "there are two"},
	"mount":             {"{containers: [{name: a, volumeMounts: [{name: meshless, mountPath: /x}]}]}", "containers a: mount the volume meshless"},
	"secret volume":     {"{containers: [{name: a}], volumes: [{name: v, secret: {secretName: meshless-cluster-pg}}]}", "hands a Secret of the proxies"},
	"projected secret":  {"{containers: [{name: a}], volumes: [{name: v, projected: {sources: [{secret: {name: meshless-identity}}]}}]}", "hands a Secret of the proxies"},
	"environment":       {"{containers: [{name: a, envFrom: [{secretRef: {name: meshless-identity}}]}]}", "hands a Secret of the proxies"},
	"variable":          {"{containers: [{name: a, env: [{name: K, valueFrom: {secretKeyRef: {name: meshless-identity, key: k}}}]}]}", "hands a Secret of the proxies"},
	"no such port":      {"{containers: [{name: a, livenessProbe: {tcpSocket: {port: web}}}]}", "handlers a/livenessProbe: their containers have no port of that name"},
	"beyond all ports":  {`{containers: [{name: a, livenessProbe: {tcpSocket: {port: "99999"}}}]}`, "handlers a/livenessProbe: their containers have no port of that name"},
	"control character": {`{containers: [{name: a, livenessProbe: {httpGet: {port: 80, path: "/\x01"}}}]}`, "a control character"},
}

// TestUnservablePodsAreRefused: with the reason, and nothing else is said of them that is not so.
func TestUnservablePodsAreRefused(t *testing.T) {
	p := policiesOf(t, "{}")
	for name, c := range unservable {
		t.Run(name, func(t *testing.T) {
			pod, _ := p.mutated(t, podOf(t, c.spec))
			messages, _ := p.refusals(t, pod)
			if len(messages) != 1 || !strings.Contains(messages[0], c.want) || !strings.HasPrefix(messages[0], "meshless: spiffe://cluster.local/ns/shop/cluster/pg: ") {
				t.Errorf("got %q, want one with %q", messages, c.want)
			}
		})
	}
	container := policiesOf(t, "{sidecar: {mode: Container}}")
	pod, _ := container.mutated(t, podOf(t, "{initContainers: [{name: s, restartPolicy: Always}], containers: [{name: a}]}"))
	if messages, _ := container.refusals(t, pod); len(messages) != 1 || !strings.Contains(messages[0], "native sidecar") {
		t.Errorf("got %q of a native sidecar beside a proxy that is none", messages)
	}
}

// TestInjectedPodsAreLetIn: in every config, also after what admission plugins add to every container.
func TestInjectedPodsAreLetIn(t *testing.T) {
	for name, spec := range configs {
		t.Run(name, func(t *testing.T) {
			p := policiesOf(t, spec)
			for name, text := range pods {
				if strings.Contains(spec, "Container") && strings.Contains(text, "restartPolicy: Always") {
					continue // a render refuses it, too
				}
				pod, _ := p.mutated(t, podOf(t, text))
				for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
					for i := range list {
						list[i].VolumeMounts = append(list[i].VolumeMounts, corev1.VolumeMount{Name: "token", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"})
						list[i].ImagePullPolicy = corev1.PullAlways
					}
				}
				if messages, _ := p.refusals(t, pod); len(messages) > 0 {
					t.Errorf("%s: %q", name, messages)
				}
			}
		})
	}
}

// TestChangedPodsAreRefused: whatever takes the injection away, as a whole or in part.
func TestChangedPodsAreRefused(t *testing.T) {
	const app = "{containers: [{name: a, ports: [{name: web, containerPort: 80}], livenessProbe: {httpGet: {port: web}}}]}"
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		want   string
	}{
		"not injected": {func(pod *corev1.Pod) { *pod = *podOf(t, app) }, "is not injected"},
		"no init":      {func(pod *corev1.Pod) { pod.Spec.InitContainers = pod.Spec.InitContainers[1:] }, "is not injected"},
		"another first": {func(pod *corev1.Pod) {
			pod.Spec.InitContainers = append([]corev1.Container{{Name: "x"}}, pod.Spec.InitContainers...)
		}, "is not injected"},
		"no proxy":         {func(pod *corev1.Pod) { pod.Spec.InitContainers = pod.Spec.InitContainers[:1] }, "is not injected"},
		"image of init":    {func(pod *corev1.Pod) { pod.Spec.InitContainers[0].Image = "other" }, "set spec.init.image"},
		"args of init":     {func(pod *corev1.Pod) { pod.Spec.InitContainers[0].Args = nil }, "container meshless-init"},
		"command of init":  {func(pod *corev1.Pod) { pod.Spec.InitContainers[0].Command = []string{"true"} }, "container meshless-init"},
		"capabilities":     {func(pod *corev1.Pod) { pod.Spec.InitContainers[0].SecurityContext.Capabilities.Add = nil }, "container meshless-init"},
		"image of proxy":   {func(pod *corev1.Pod) { pod.Spec.InitContainers[1].Image = "other" }, "set spec.proxy.image"},
		"args of proxy":    {func(pod *corev1.Pod) { pod.Spec.InitContainers[1].Args = []string{"--log-level=debug"} }, "container meshless-proxy"},
		"user of proxy":    {func(pod *corev1.Pod) { *pod.Spec.InitContainers[1].SecurityContext.RunAsUser = 1 }, "container meshless-proxy"},
		"proxy that ends":  {func(pod *corev1.Pod) { pod.Spec.InitContainers[1].RestartPolicy = nil }, "container meshless-proxy"},
		"environment":      {func(pod *corev1.Pod) { pod.Spec.InitContainers[1].EnvFrom = []corev1.EnvFromSource{{}} }, "container meshless-proxy"},
		"no mount":         {func(pod *corev1.Pod) { pod.Spec.InitContainers[1].VolumeMounts = nil }, "container meshless-proxy"},
		"no volume":        {func(pod *corev1.Pod) { pod.Spec.Volumes = nil }, "the volume meshless"},
		"another volume":   {func(pod *corev1.Pod) { pod.Spec.Volumes[0].Projected = nil }, "the volume meshless"},
		"another leaf":     {func(pod *corev1.Pod) { pod.Spec.Volumes[0].Projected.Sources[0].Secret.Name = "x" }, "the volume meshless"},
		"no label":         {func(pod *corev1.Pod) { delete(pod.Labels, api.PackageLabel) }, "the label meshless.dev/package"},
		"another package":  {func(pod *corev1.Pod) { pod.Labels[api.PackageLabel] = "other" }, "the label meshless.dev/package"},
		"no annotation":    {func(pod *corev1.Pod) { delete(pod.Annotations, api.WorkloadAnnotation) }, "the annotation meshless.dev/workload"},
		"another identity": {func(pod *corev1.Pod) { pod.Annotations[api.WorkloadAnnotation] = "{}" }, "declares it twice"},
		"a probe":          {func(pod *corev1.Pod) { pod.Spec.Containers[0].LivenessProbe.HTTPGet.Path = "/" }, "handlers a/livenessProbe: do not go through"},
		"a probe that nobody performs": {func(pod *corev1.Pod) {
			pod.Spec.Containers[0].ReadinessProbe = pod.Spec.Containers[0].LivenessProbe.DeepCopy()
			pod.Spec.Containers[0].ReadinessProbe.HTTPGet.Path = "/handlers/a/readinessProbe"
		}, "handlers a/readinessProbe: do not go through"},
		"a variable of Go": {func(pod *corev1.Pod) {
			pod.Spec.InitContainers[1].Env = []corev1.EnvVar{{Name: "GODEBUG", Value: "tls10server=1"}}
		}, "container meshless-proxy"},
		"another namespace is told": {func(pod *corev1.Pod) {
			pod.Spec.InitContainers[1].Env = []corev1.EnvVar{{Name: "MESHLESS_POD_NAMESPACE", Value: "prod"}}
		}, "container meshless-proxy"},
		"a variable of Go to init": {func(pod *corev1.Pod) {
			pod.Spec.InitContainers[0].Env = []corev1.EnvVar{{Name: "GOTRACEBACK", Value: "crash"}}
		}, "container meshless-init"},
		"environment of init": {func(pod *corev1.Pod) { pod.Spec.InitContainers[0].EnvFrom = []corev1.EnvFromSource{{}} }, "container meshless-init"},
		"another program": {func(pod *corev1.Pod) {
			pod.Spec.InitContainers[1].VolumeMounts = append(pod.Spec.InitContainers[1].VolumeMounts, corev1.VolumeMount{Name: "x", MountPath: "/meshless-proxy", SubPath: "x"})
		}, "container meshless-proxy"},
		"another program by a detour": {func(pod *corev1.Pod) {
			pod.Spec.InitContainers[1].VolumeMounts = append(pod.Spec.InitContainers[1].VolumeMounts, corev1.VolumeMount{Name: "x", MountPath: "/var/run/secrets/../../../meshless-proxy"})
		}, "container meshless-proxy"},
		"another program of init": {func(pod *corev1.Pod) {
			pod.Spec.InitContainers[0].VolumeMounts = []corev1.VolumeMount{{Name: "x", MountPath: "/meshless-init", SubPath: "x"}}
		}, "container meshless-init"},
		"a program by a hook": {func(pod *corev1.Pod) {
			pod.Spec.InitContainers[1].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/x"}}}}
		}, "container meshless-proxy"},
		"a program by a probe": {func(pod *corev1.Pod) {
			pod.Spec.InitContainers[1].LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/x"}}}}
		}, "container meshless-proxy"},
		"a part of the volume": {func(pod *corev1.Pod) { pod.Spec.InitContainers[1].VolumeMounts[0].SubPath = "x" }, "container meshless-proxy"},
		"another file": {func(pod *corev1.Pod) {
			pod.Spec.Volumes[0].Projected.Sources = append(pod.Spec.Volumes[0].Projected.Sources, corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: "mine"}, Items: []corev1.KeyToPath{{Key: "mesh.yaml", Path: "mesh.yaml"}}}})
		}, "the volume meshless"},
		"another map": {func(pod *corev1.Pod) { pod.Spec.Volumes[0].Projected.Sources[3].ConfigMap.Name = "mine" }, "the volume meshless"},
		"a field behind the handlers": {func(pod *corev1.Pod) {
			text := pod.Annotations[api.WorkloadAnnotation]
			pod.Annotations[api.WorkloadAnnotation] = strings.TrimSuffix(text, "\n  }\n}\n") + "\n  },\n  \"permissivePorts\": \"1-65535\",\n  \"handlers\": {\n  }\n}\n"
		}, "the annotation meshless.dev/workload"},
		"a field among the handlers, on one line": {func(pod *corev1.Pod) {
			pod.Annotations[api.WorkloadAnnotation] = strings.Replace(pod.Annotations[api.WorkloadAnnotation], "\n    }\n  }\n}\n", "\n    }}, \"permissivePorts\": \"1-65535\", \"handlers\": {\n  }\n}\n", 1)
		}, "the annotation meshless.dev/workload"},
		"an override":   {func(pod *corev1.Pod) { pod.Annotations[api.InjectAnnotation] = "disabled" }, "annotations meshless.dev/inject: have no effect"},
		"another value": {func(pod *corev1.Pod) { pod.Annotations[api.PermissivePortsAnnotation] = "1-65535" }, "annotations meshless.dev/permissive-ports: have no effect"},
	} {
		t.Run(name, func(t *testing.T) {
			p := policiesOf(t, "{}")
			pod, _ := p.mutated(t, podOf(t, app))
			c.change(pod)
			messages, _ := p.refusals(t, pod)
			if !strings.Contains(strings.Join(messages, "\n"), c.want) {
				t.Errorf("got %q, want %q", messages, c.want)
			}
		})
	}
	p := policiesOf(t, "{}")
	pod, _ := p.mutated(t, podOf(t, app))
	pod.Annotations[api.PermissivePortsAnnotation] = overrides[api.PermissivePortsAnnotation]
	pod.Spec.InitContainers[0].Image += "@sha256:00"
	if messages, _ := p.refusals(t, pod); len(messages) > 0 {
		t.Errorf("got %q of a pod with an annotation as it was declared, and an image with its digest", messages)
	}
}

// TestLaterMutatorsAreFollowed: containers that another mutator puts in have their probes rewritten by the second
// invocation, and ours are the first again.
func TestLaterMutatorsAreFollowed(t *testing.T) {
	const late = "{name: late, livenessProbe: {httpGet: {port: 81, path: /late}}, readinessProbe: {httpGet: {port: 81}}}"
	for mode, spec := range map[string]string{"Native": "{}", "Container": "{sidecar: {mode: Container}}"} {
		for name, app := range map[string]string{"probes": "{name: a, livenessProbe: {tcpSocket: {port: 80}}}", "none": "{name: a}"} {
			t.Run(mode+" "+name, func(t *testing.T) {
				p := policiesOf(t, spec)
				want, _ := p.mutated(t, podOf(t, "{initContainers: [{name: i1}, {name: i2}], containers: ["+late+", "+app+"]}"))
				got, _ := p.mutated(t, podOf(t, "{containers: ["+app+"]}"))
				other := podOf(t, "{initContainers: [{name: i1}, {name: i2}], containers: ["+late+"]}")
				inits := other.Spec.InitContainers
				if mode == "Native" {
					got.Spec.InitContainers = append([]corev1.Container{inits[0], inits[1]}, got.Spec.InitContainers...)
				} else {
					got.Spec.InitContainers = append(got.Spec.InitContainers, inits...)
				}
				got.Spec.Containers = append(other.Spec.Containers, got.Spec.Containers...)
				if messages, _ := p.refusals(t, got); len(messages) == 0 {
					t.Error("a pod with probes that lead past the proxy is let in")
				}
				got, _ = p.mutated(t, got)
				if diff := compareNames(want, got); diff != "" {
					t.Error(diff)
				}
				if a, b := fmt.Sprint(meaning(t, want.Annotations)[api.WorkloadAnnotation]), fmt.Sprint(meaning(t, got.Annotations)[api.WorkloadAnnotation]); a != b {
					t.Errorf("got %s\nwant %s", b, a)
				}
				if messages, _ := p.refusals(t, got); len(messages) > 0 {
					t.Errorf("it is refused: %q", messages)
				}
			})
		}
	}
}

// TestLimitRangesGiveStorage: a limit of storage that a LimitRange has given a container brings ours no other one, as
// the LimitRange may allow less. Who says so is the admission plugin of the API server (plugin limitranger).
func TestLimitRangesGiveStorage(t *testing.T) {
	for said, want := range map[string]string{
		"": "512Mi",
		"LimitRanger plugin set: cpu, ephemeral-storage, memory limit for container a":                         "",
		"LimitRanger plugin set: ephemeral-storage request for container a":                                    "512Mi",
		"LimitRanger plugin set: ephemeral-storage request for container a; cpu limit for container a":         "512Mi",
		"LimitRanger plugin set: memory request for init container i; ephemeral-storage limit for container a": "",
	} {
		pod := podOf(t, "{containers: [{name: a, resources: {limits: {ephemeral-storage: 1Gi}}}]}")
		pod.Annotations = map[string]string{"kubernetes.io/limit-ranger": said}
		pod, _ = policiesOf(t, "{}").mutated(t, pod)
		for _, c := range pod.Spec.InitContainers {
			if limit, has := c.Resources.Limits[corev1.ResourceEphemeralStorage]; has != (want != "") || has && limit.String() != want {
				t.Errorf("%q: %s has a limit of %s, want %q", said, c.Name, &limit, want)
			}
		}
	}
}

// compareNames says where containers stand otherwise.
func compareNames(want, got *corev1.Pod) string {
	names := func(pod *corev1.Pod) (list []string) {
		for _, c := range append(append([]corev1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...) {
			list = append(list, c.Name)
		}
		return list
	}
	if a, b := fmt.Sprint(names(want)), fmt.Sprint(names(got)); a != b {
		return "got " + b + ", want " + a
	}
	return ""
}

// TestCost: a pod of twenty containers, each with a handler in every place, takes a small part of what the API server
// gives the expressions of a policy. Beyond its limit it would refuse every pod.
func TestCost(t *testing.T) {
	var containers []string
	for i := range 20 {
		handler := fmt.Sprintf(`{httpGet: {port: web, path: "/%[1]s", httpHeaders: [{name: A, value: %[1]s}, {name: B, value: %[1]s}]}}`, strings.Repeat("p", 64))
		containers = append(containers, fmt.Sprintf("{name: c%02d, ports: [{name: web, containerPort: %d}], livenessProbe: %[3]s, readinessProbe: %[3]s, startupProbe: %[3]s, lifecycle: {postStart: %[3]s, preStop: %[3]s}, env: [%[4]s]}",
			i, 8000+i, handler, strings.TrimSuffix(strings.Repeat("{name: E, valueFrom: {secretKeyRef: {name: s, key: k}}}, ", 20), ", ")))
	}
	pod := podOf(t, "{containers: ["+strings.Join(containers, ", ")+"]}")
	for name, spec := range configs {
		p := policiesOf(t, spec)
		injected, mutating := p.mutated(t, pod)
		_, again := p.mutated(t, injected)
		messages, validating := p.refusals(t, injected)
		if len(messages) > 0 {
			t.Errorf("%s: it is refused: %q", name, messages)
		}
		t.Logf("%s: of %d units the mutation takes %d, a second one %d, and the validation %d", name, celconfig.RuntimeCELCostBudget, mutating, again, validating)
		for what, cost := range map[string]int64{"mutation": mutating, "second mutation": again, "validation": validating} {
			if cost <= 0 || cost > celconfig.RuntimeCELCostBudget/10 {
				t.Errorf("%s: the %s takes %d of %d units", name, what, cost, celconfig.RuntimeCELCostBudget)
			}
		}
	}
}

// TestLargePodsAreRefused: with the reason, and before they cost much. Whoever may make pods may make them as large as
// a request may be.
func TestLargePodsAreRefused(t *testing.T) {
	for name, grow := range map[string]func(*corev1.Pod){
		"containers": func(pod *corev1.Pod) {
			for i := range 5000 {
				pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: fmt.Sprint("c", i)})
			}
		},
		"init containers": func(pod *corev1.Pod) { pod.Spec.InitContainers = make([]corev1.Container, 5000) },
		"variables":       func(pod *corev1.Pod) { pod.Spec.Containers[0].Env = make([]corev1.EnvVar, 20_000) },
		"environments":    func(pod *corev1.Pod) { pod.Spec.Containers[0].EnvFrom = make([]corev1.EnvFromSource, 20_000) },
		"ports":           func(pod *corev1.Pod) { pod.Spec.Containers[0].Ports = make([]corev1.ContainerPort, 20_000) },
		"mounts":          func(pod *corev1.Pod) { pod.Spec.Containers[0].VolumeMounts = make([]corev1.VolumeMount, 20_000) },
		"volumes":         func(pod *corev1.Pod) { pod.Spec.Volumes = make([]corev1.Volume, 12_500) },
		"sources": func(pod *corev1.Pod) {
			pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: make([]corev1.VolumeProjection, 12_500)}}}}
		},
		"annotations": func(pod *corev1.Pod) {
			pod.Annotations = map[string]string{}
			for i := range 12_500 {
				pod.Annotations[fmt.Sprint("meshless.dev/", i)] = ""
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			for mode, spec := range map[string]string{"Native": "{}", "Container": "{sidecar: {mode: Container}}"} {
				p := policiesOf(t, spec)
				pod := podOf(t, "{containers: [{name: a, livenessProbe: {tcpSocket: {port: 80}}}]}")
				grow(pod)
				pod, mutating := p.mutated(t, pod)
				messages, validating := p.refusals(t, pod)
				if len(messages) == 0 || !strings.Contains(messages[0], "has more than 200 containers") {
					t.Errorf("%s: got %q", mode, messages)
				}
				for what, cost := range map[string]int64{"mutation": mutating, "validation": validating} {
					if cost > celconfig.RuntimeCELCostBudget/20 {
						t.Errorf("%s: the %s takes %d of %d units", mode, what, cost, celconfig.RuntimeCELCostBudget)
					}
				}
			}
		})
	}
}
