package podspec_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/podspec"
	"github.com/meshless-dev/meshless/internal/podplan"
)

func read[T any](t *testing.T, text string) (out T) {
	t.Helper()
	if err := node.Decode(yaml.MustParse(text), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestQOSClass: the class is that which Kubernetes gives an admitted pod. test/controlplane holds the same pods against
// an API server.
func TestQOSClass(t *testing.T) {
	for name, c := range map[string]struct {
		pod, limits string // a PodSpec, and the limits of a LimitRange
		want        corev1.PodQOSClass
	}{
		"nothing":            {"{containers: [{name: c}]}", "", corev1.PodQOSBestEffort},
		"zero":               {`{containers: [{name: c, resources: {requests: {cpu: "0"}}}]}`, "", corev1.PodQOSBestEffort},
		"limits":             {`{containers: [{name: c, resources: {limits: {cpu: "1", memory: 1Gi}}}]}`, "", corev1.PodQOSGuaranteed},
		"same in two units":  {`{containers: [{name: c, resources: {requests: {cpu: 1000m, memory: 1024Mi}, limits: {cpu: "1", memory: 1Gi}}}]}`, "", corev1.PodQOSGuaranteed},
		"less requested":     {`{containers: [{name: c, resources: {requests: {cpu: 100m}, limits: {cpu: "1", memory: 1Gi}}}]}`, "", corev1.PodQOSBurstable},
		"no limit of memory": {`{containers: [{name: c, resources: {limits: {cpu: "1"}}}]}`, "", corev1.PodQOSBurstable},
		"init without":       {`{initContainers: [{name: i}], containers: [{name: c, resources: {limits: {cpu: "1", memory: 1Gi}}}]}`, "", corev1.PodQOSBurstable},
		"storage":            {`{containers: [{name: c, resources: {requests: {ephemeral-storage: 1Gi}}}]}`, "", corev1.PodQOSBestEffort},
		"by default":         {"{containers: [{name: c}]}", `[{type: Container, default: {cpu: "1", memory: 1Gi}}]`, corev1.PodQOSGuaranteed},
		"by maximum":         {"{containers: [{name: c}]}", `[{type: Container, max: {cpu: "1", memory: 1Gi}}]`, corev1.PodQOSGuaranteed},
		"other request":      {"{containers: [{name: c}]}", `[{type: Container, max: {cpu: "1", memory: 1Gi}, defaultRequest: {cpu: 100m}}]`, corev1.PodQOSBurstable},
		"by minimum":         {"{containers: [{name: c}]}", `[{type: Container, min: {cpu: 10m}}]`, corev1.PodQOSBurstable},
		"of pods":            {"{containers: [{name: c}]}", `[{type: Pod, max: {cpu: "1", memory: 1Gi}}]`, corev1.PodQOSBestEffort},
		"whole":              {`{resources: {limits: {cpu: "1", memory: 1Gi}}, containers: [{name: c}]}`, "", corev1.PodQOSGuaranteed},
		"whole, and a part":  {`{resources: {limits: {cpu: "1", memory: 1Gi}}, containers: [{name: c, resources: {requests: {cpu: 10m}}}]}`, "", corev1.PodQOSBurstable},
		"whole, both said":   {`{resources: {requests: {cpu: "1", memory: 1Gi}, limits: {cpu: "1", memory: 1Gi}}, containers: [{name: c, resources: {requests: {cpu: 10m}}}]}`, "", corev1.PodQOSGuaranteed},
	} {
		pod := read[corev1.PodSpec](t, c.pod)
		var ranges []corev1.LimitRange
		if c.limits != "" {
			ranges = append(ranges, read[corev1.LimitRange](t, "{spec: {limits: "+c.limits+"}}"))
		}
		if got := podspec.QOSClass(podspec.Admit(&pod, ranges)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// TestRequests: init containers run one by one beside the sidecars that started before them, and what a pod says as a
// whole counts before its containers.
func TestRequests(t *testing.T) {
	for name, c := range map[string]struct{ pod, requests, limits string }{
		"sum":            {`{containers: [{name: a, resources: {requests: {cpu: 100m}}}, {name: b, resources: {requests: {cpu: 200m}, limits: {cpu: "1"}}}]}`, "300m", "1"},
		"init":           {`{initContainers: [{name: i, resources: {requests: {cpu: "1"}}}], containers: [{name: a, resources: {requests: {cpu: 100m}}}]}`, "1", "0"},
		"sidecar":        {`{initContainers: [{name: s, restartPolicy: Always, resources: {requests: {cpu: 300m}}}, {name: i, resources: {requests: {cpu: "1"}}}], containers: [{name: a, resources: {requests: {cpu: 100m}}}]}`, "1300m", "0"},
		"init before it": {`{initContainers: [{name: i, resources: {requests: {cpu: 350m}}}, {name: s, restartPolicy: Always, resources: {requests: {cpu: 300m}}}], containers: [{name: a, resources: {requests: {cpu: 100m}}}]}`, "400m", "0"},
		"whole":          {`{resources: {requests: {cpu: "2"}, limits: {cpu: "3"}}, containers: [{name: a, resources: {requests: {cpu: 100m}}}]}`, "2", "3"},
		"overhead":       {`{overhead: {cpu: 50m}, containers: [{name: a, resources: {requests: {cpu: 100m}}}]}`, "150m", "0"},
	} {
		pod := read[corev1.PodSpec](t, c.pod)
		requests, limits := podspec.Requests(&pod)["cpu"], podspec.Limits(&pod)["cpu"]
		if requests.String() != c.requests || limits.String() != c.limits {
			t.Errorf("%s: requests %s with a limit of %s, want %s and %s", name, &requests, &limits, c.requests, c.limits)
		}
	}
}

// TestWith: what a plan asks for stands where injection puts it, and Without takes it out.
func TestWith(t *testing.T) {
	pod := read[corev1.PodSpec](t, "{initContainers: [{name: i}], containers: [{name: c}]}")
	plan := &podplan.Plan{Proxy: podplan.Container{Resources: &podplan.Resources{Requests: map[string]string{"cpu": "10m"}}}}
	names := func(list []corev1.Container) (names string) {
		for _, c := range list {
			names += c.Name + " "
		}
		return names
	}
	for native, want := range map[bool][2]string{true: {"meshless-init meshless-proxy i ", "c "}, false: {"i meshless-init ", "meshless-proxy c "}} {
		plan.Native = native
		with := podspec.With(&pod, plan)
		if got := [2]string{names(with.InitContainers), names(with.Containers)}; got != want {
			t.Errorf("native %v: %q, want %q", native, got, want)
		}
		if cpu := podspec.Requests(with)["cpu"]; cpu.String() != "10m" {
			t.Errorf("native %v: requests %s", native, &cpu)
		}
		if without := podspec.Without(with); names(without.InitContainers) != "i " || names(without.Containers) != "c " {
			t.Errorf("native %v: %v is left", native, without)
		}
	}
}
