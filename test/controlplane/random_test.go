package controlplane

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/fn/podspec"
)

// random makes manifests. The seed is fixed.
type random struct{ *rand.Rand }

func (r random) pick(from ...string) string { return from[r.IntN(len(from))] }

// quantities are requests or limits.
func (r random) quantities() string {
	cpu, memory := r.pick("100m", `"1"`, "1000m", `"0"`), r.pick("1Gi", "64Mi", "1024Mi")
	return r.pick("{}", "{cpu: "+cpu+"}", "{memory: "+memory+"}", "{cpu: "+cpu+", memory: "+memory+"}")
}

func (r random) resources() string {
	return r.pick("{}", "{limits: "+r.quantities()+"}", "{requests: "+r.quantities()+", limits: "+r.quantities()+"}")
}

func (r random) limitRange() string {
	return fmt.Sprintf("{apiVersion: v1, kind: LimitRange, metadata: {name: l}, spec: {limits: [{type: Container, default: %s, defaultRequest: %s, max: %s}]}}",
		r.quantities(), r.pick("{}", r.quantities()), r.pick("{}", `{cpu: "1", memory: 1Gi}`))
}

func (r random) pod(name int) string {
	whole := r.pick("", "", "resources: "+r.resources()+", ")
	init := r.pick("", fmt.Sprintf("initContainers: [{name: i, image: i, %sresources: %s}], ", r.pick("", "restartPolicy: Always, "), r.resources()))
	second := r.pick("", ", {name: d, image: i, resources: "+r.resources()+"}")
	return fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: p%d}, spec: {%s%scontainers: [{name: c, image: i, resources: %s}%s]}}", name, whole, init, r.resources(), second)
}

// admitRandom holds podspec.Admit and QOSClass against what the API server makes of random pods and LimitRanges.
func (s *server) admitRandom(t *testing.T) {
	const namespaces, podsEach = 40, 25
	r, classes := random{rand.New(rand.NewPCG(16, 0))}, map[corev1.PodQOSClass]int{}
	for i := range namespaces {
		at := fmt.Sprintf("/random-%d", i)
		s.must(t, http.MethodPost, "", object{APIVersion: "v1", Kind: "Namespace", Metadata: map[string]any{"name": at[1:]}})
		var ranges []corev1.LimitRange
		if l := parse[corev1.LimitRange](t, r.limitRange()); i%3 > 0 {
			if status, _ := s.send(t, http.MethodPost, at+"/limitranges", l); status == http.StatusCreated {
				ranges = append(ranges, l)
			}
		}
		for j := range podsEach {
			text := r.pod(j)
			pod := parse[corev1.Pod](t, text)
			status, body := s.send(t, http.MethodPost, at+"/pods", pod)
			if status != http.StatusCreated {
				continue // its requests are above its limits, or the like
			}
			var made corev1.Pod
			if err := json.Unmarshal(body, &made); err != nil {
				t.Fatal(err)
			}
			classes[made.Status.QOSClass]++
			admitted := podspec.Admit(&pod.Spec, ranges)
			if got, want := podspec.QOSClass(admitted), made.Status.QOSClass; got != want {
				t.Errorf("%s is %s, and the API server says %s\n%+v", text, got, want, ranges)
			}
			if got, want := asked(admitted), asked(&made.Spec); !equality.Semantic.DeepEqual(got, want) {
				t.Errorf("%s with %+v (-API server +ours):\n%s", text, ranges, gocmp.Diff(want, got))
			}
		}
	}
	if len(classes) != 3 {
		t.Errorf("the API server took %v, want some of each class", classes)
	}
}

// asked are the resources of a pod, of its init containers and of its containers.
func asked(pod *corev1.PodSpec) (list []corev1.ResourceRequirements) {
	if pod.Resources != nil {
		list = append(list, *pod.Resources)
	}
	for _, containers := range [][]corev1.Container{pod.InitContainers, pod.Containers} {
		for _, c := range containers {
			list = append(list, c.Resources)
		}
	}
	return list
}

func parse[T any](t *testing.T, text string) (out T) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(text), &out); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return out
}
