package controlplane

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"
)

// TestAdmission holds what a render says of quality of service classes, ResourceQuotas and LimitRanges against an API
// server: it makes the pods of golden cases of fn/pipeline as they were, and as they are rendered.
func TestAdmission(t *testing.T) {
	apiserver, etcd := binaries(t)
	commands, n := render(t, "{controlPlane: false}"), newNode(t)
	n.ready(t, n.start(t, etcd, commands["etcd"]), "https://"+n.client+"/health")
	n.ready(t, n.start(t, apiserver, append(commands["kube-apiserver"], "--disable-admission-plugins=ServiceAccount")), "https://"+n.serving+"/readyz")
	server := &server{"https://" + n.serving + "/api/v1/namespaces", &http.Client{Transport: &http.Transport{TLSClientConfig: n.tls}}}
	defer server.client.CloseIdleConnections()

	t.Run("random pods", server.admitRandom)
	const guaranteed, burstable, bestEffort = "Guaranteed", "Burstable", "BestEffort"
	for golden, want := range map[string]map[string][2]string{ // by workload: its class, or what the API server says; before and after
		"guaranteed": {"cores": {guaranteed, guaranteed}, "said": {guaranteed, guaranteed}, "burstable": {burstable, burstable}, "ignored": {guaranteed, burstable},
			"whole": {guaranteed, guaranteed}, "by-default": {guaranteed, guaranteed}},
		"resources": {"shared": {guaranteed, guaranteed}, "own": {guaranteed, burstable}},
		"pod-resources": {"small": {burstable, "must be greater than or equal to aggregate container requests of 200m"},
			"tight": {burstable, "must be less than or equal to pod limits of 128Mi"}},
		"limit-ranges": {"web": {burstable, "minimum cpu usage per Container is 50m, but request is 10m"}, "api": {burstable, "maximum memory usage per Pod is 300Mi, but limit is "},
			"low": {burstable, "must be less than or equal to cpu limit of 5m"}, "wide": {guaranteed, burstable}},
		"quotas": {"demand/web": {burstable, "must specify limits.cpu for: meshless-init,meshless-proxy"}, "sum/web": {burstable, "exceeded quota: sum"},
			"besteffort/bare": {bestEffort, "must specify limits.memory for: c"}, "defaults/bare": {guaranteed, burstable}},
	} {
		t.Run(golden, func(t *testing.T) {
			folder := filepath.Join("../../fn/pipeline/testdata", golden)
			before, after := server.admit(t, golden+"-before-", filepath.Join(folder, "input.yaml")), server.admit(t, golden+"-after-", filepath.Join(folder, "expected.yaml"))
			got := map[string][2]string{}
			for name, said := range want {
				key := name
				if _, unique := before[key]; !unique {
					_, key, _ = strings.Cut(name, "/")
				}
				pair := [2]string{before[key], after[key]}
				for i := range pair {
					if strings.Contains(pair[i], said[i]) {
						pair[i] = said[i]
					}
				}
				got[name] = pair
			}
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// server is an API server for whoever has the node's certificate.
type server struct {
	namespaces string // the URL
	client     *http.Client
}

// object is what the test reads of a manifest.
type object struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Metadata   map[string]any `json:"metadata"`
	Spec       map[string]any `json:"spec"`
}

// admit makes the namespaces, quotas, LimitRanges and pods of a file, each workload as often as it has replicas. It
// returns the class of each workload's pods, or what the API server says, by its name and by <namespace>/<name>.
func (s *server) admit(t *testing.T, prefix, file string) map[string]string {
	t.Helper()
	said, made := map[string]string{}, map[string]bool{}
	var pods []object
	for _, document := range strings.Split(readFile(t, file), "\n---\n") {
		var o object
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			t.Fatal(err)
		}
		namespace, _ := o.Metadata["namespace"].(string)
		if namespace != "" && !made[namespace] {
			made[namespace] = true
			s.must(t, http.MethodPost, "", object{APIVersion: "v1", Kind: "Namespace", Metadata: map[string]any{"name": prefix + namespace}})
		}
		switch o.Kind {
		case "ResourceQuota", "LimitRange":
			s.limit(t, prefix, o)
		case "Deployment", "Pod":
			pods = append(pods, o)
		}
	}
	for _, o := range pods {
		namespace, name := o.Metadata["namespace"].(string), o.Metadata["name"].(string)
		replicas, _ := o.Spec["replicas"].(float64)
		for i := range max(1, int(replicas)) {
			class := s.class(t, prefix+namespace, fmt.Sprintf("%s-%d", name, i), o)
			said[name], said[namespace+"/"+name] = class, class
		}
	}
	return said
}

// limit makes a quota or a LimitRange. No controller runs here, which would say in the status of a quota that it holds.
func (s *server) limit(t *testing.T, prefix string, o object) {
	t.Helper()
	name := o.Metadata["name"].(string)
	at := "/" + prefix + o.Metadata["namespace"].(string) + "/" + strings.ToLower(o.Kind) + "s"
	delete(o.Metadata, "namespace")
	body := s.must(t, http.MethodPost, at, o)
	if o.Kind != "ResourceQuota" {
		return
	}
	var quota corev1.ResourceQuota
	if err := json.Unmarshal(body, &quota); err != nil {
		t.Fatal(err)
	}
	quota.Status.Hard, quota.Status.Used = quota.Spec.Hard, corev1.ResourceList{}
	for name := range quota.Spec.Hard {
		quota.Status.Used[name] = resource.Quantity{}
	}
	s.must(t, http.MethodPut, at+"/"+name+"/status", quota)
}

// class makes a pod of a workload, and returns its class, or why it is refused.
func (s *server) class(t *testing.T, namespace, name string, o object) string {
	t.Helper()
	pod := object{APIVersion: "v1", Kind: "Pod", Metadata: map[string]any{"name": name}, Spec: o.Spec}
	if template, has := o.Spec["template"].(map[string]any); has {
		pod.Spec = template["spec"].(map[string]any)
	}
	status, body := s.send(t, http.MethodPost, "/"+namespace+"/pods?fieldValidation=Strict", pod)
	if status != http.StatusCreated {
		return string(body)
	}
	var created corev1.Pod
	if err := json.Unmarshal(body, &created); err != nil {
		t.Fatal(err)
	}
	return string(created.Status.QOSClass)
}

func (s *server) must(t *testing.T, method, path string, body any) []byte {
	t.Helper()
	status, answer := s.send(t, method, path, body)
	if !slices.Contains([]int{http.StatusOK, http.StatusCreated}, status) {
		t.Fatalf("%s %s: %d %s", method, path, status, answer)
	}
	return answer
}

func (s *server) send(t *testing.T, method, path string, body any) (status int, answer []byte) {
	t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, s.namespaces+path, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := s.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if answer, err = io.ReadAll(io.LimitReader(response.Body, 1<<20)); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, answer
}
