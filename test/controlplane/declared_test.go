package controlplane

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/test/program"
)

// declaration declares the pods of an operator; one Service of the input leads to them.
const declaration = `
apiVersion: config.kubernetes.io/v1
kind: ResourceList
functionConfig:
  apiVersion: meshless.dev/v1alpha1
  kind: MutualTLS
  metadata: {name: mtls}
  spec:
    certificates: {issuer: CertManager, certManager: {issuerRef: {name: mesh}}}
    sidecar: {mode: MODE}
    workloads:
      declared: [{kind: Cluster, name: pg, namespace: shop, selector: {matchLabels: {app: pg}}}]
items: []
`

// TestDeclaredPods: a kube-apiserver takes the policies that a render writes for a declared workload. It injects the
// pods that they select, refuses those that cannot be in the mesh, and leaves others alone.
func TestDeclaredPods(t *testing.T) {
	apiserver, etcd := binaries(t)
	commands := render(t, "{controlPlane: false}")
	n := newNode(t)
	n.ready(t, n.start(t, etcd, commands["etcd"]), "https://"+n.client+"/health")
	n.ready(t, n.start(t, apiserver, commands["kube-apiserver"]), "https://"+n.serving+"/readyz")
	n.create(t, "/api/v1/namespaces", `{"metadata": {"name": "shop"}}`)
	n.create(t, "/api/v1/namespaces/shop/serviceaccounts", `{"metadata": {"name": "default"}}`)
	for mode, places := range map[string]string{"Native": "init [meshless-init meshless-proxy first] of [app]", "Container": "init [first meshless-init] of [meshless-proxy app]"} {
		t.Run(mode, func(t *testing.T) {
			for _, item := range declaredPolicies(t, mode) {
				path := "/apis/admissionregistration.k8s.io/v1/" + strings.ToLower(strings.TrimSuffix(item.GetKind(), "y")) + "ies"
				if strings.HasSuffix(item.GetKind(), "Binding") {
					path = "/apis/admissionregistration.k8s.io/v1/" + strings.ToLower(item.GetKind()) + "s"
				}
				text, err := item.MarshalJSON()
				if err != nil {
					t.Fatal(err)
				}
				n.create(t, path, string(text))
				t.Cleanup(func() { n.request(t, http.MethodDelete, path+"/"+item.GetName(), "") })
			}
			pod := func(label, spec string) string {
				return fmt.Sprintf(`{"metadata": {"name": "pg-1", "labels": {"app": %q}}, "spec": {%s"initContainers": [{"name": "first", "image": "i"}], "containers": [{"name": "app", "image": "i", "ports": [{"name": "web", "containerPort": 80}], "livenessProbe": {"tcpSocket": {"port": "web"}}}]}}`, label, spec)
			}
			const pods = "/api/v1/namespaces/shop/pods?dryRun=All"
			body := n.untilInjected(t, pods, pod("pg", ""), places)
			if !strings.Contains(body, `/handlers/app/livenessProbe`) || !strings.Contains(body, `\"tcpSocket\": {\n        \"port\": 80`) {
				t.Errorf("the probe does not lead to the proxy:\n%s", body)
			}
			n.untilRefused(t, pods, pod("pg", `"hostNetwork": true, `), "spiffe://cluster.local/ns/shop/cluster/pg: hostNetwork: ")
			for planted, want := range map[string]int{
				`"imagePullPolicy":"Always"`:                            http.StatusCreated,
				`"env":[{"name":"GODEBUG","value":"tls10server=1"}]`:    http.StatusForbidden,
				`"lifecycle":{"postStart":{"exec":{"command":["/x"]}}}`: http.StatusForbidden,
			} {
				if status, answer := n.request(t, http.MethodPost, pods, withField(t, body, "meshless-proxy", planted)); status != want || status == http.StatusForbidden && !strings.Contains(answer, "container meshless-proxy is not as the render wrote it") {
					t.Errorf("a pod that brings the proxy's container along, with %s: %d: %s", planted, status, answer)
				}
			}
			if status, body := n.request(t, http.MethodPost, pods, pod("other", "")); status != http.StatusCreated || strings.Contains(body, "meshless") {
				t.Errorf("a pod that nobody declares: %d: %s", status, body)
			}
		})
	}
}

// withField is a pod, to be made once more, with a field of one container set.
func withField(t *testing.T, body, container, field string) string {
	t.Helper()
	var pod struct {
		Metadata map[string]any             `json:"metadata"`
		Spec     map[string]json.RawMessage `json:"spec"`
	}
	if err := json.Unmarshal([]byte(body), &pod); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"resourceVersion", "uid", "creationTimestamp", "managedFields", "generation"} {
		delete(pod.Metadata, key)
	}
	for _, list := range []string{"initContainers", "containers"} {
		var containers []map[string]json.RawMessage
		if err := json.Unmarshal(pod.Spec[list], &containers); err != nil {
			t.Fatal(err)
		}
		for _, c := range containers {
			if string(c["name"]) != strconv.Quote(container) {
				continue
			}
			if err := json.Unmarshal([]byte("{"+field+"}"), &c); err != nil {
				t.Fatal(err)
			}
		}
		text, err := json.Marshal(containers)
		if err != nil {
			t.Fatal(err)
		}
		pod.Spec[list] = text
	}
	text, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// untilInjected creates a pod, again and again, until the server has read the policies and its containers stand where
// they have to.
func (n *node) untilInjected(t *testing.T, path, pod, places string) (body string) {
	t.Helper()
	got := ""
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		var status int
		if status, body = n.request(t, http.MethodPost, path, pod); status != http.StatusCreated {
			got = body
		} else if got = placesOf(t, body); got == places {
			return body
		}
	}
	t.Fatalf("got %s, want %s", got, places)
	return ""
}

// untilRefused creates a pod until the server has read the policy that refuses it, which may be later than it injects.
func (n *node) untilRefused(t *testing.T, path, pod, want string) {
	t.Helper()
	got := ""
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		var status int
		if status, got = n.request(t, http.MethodPost, path, pod); status == http.StatusForbidden && strings.Contains(got, want) {
			return
		}
	}
	t.Fatalf("got %s, want %s", got, want)
}

// declaredPolicies are the policies that a render writes.
func declaredPolicies(t *testing.T, mode string) (policies []*yaml.RNode) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program.Meshless(t))
	cmd.Stdin = strings.NewReader(strings.Replace(declaration, "MODE", mode, 1))
	var out, messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &messages
	if err := cmd.Run(); err != nil {
		t.Fatalf("meshless: %v\n%s", err, &messages)
	}
	items, err := (&kio.ByteReader{Reader: &out, OmitReaderAnnotations: true}).Read()
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range items {
		if item.GetApiVersion() == "admissionregistration.k8s.io/v1" {
			policies = append(policies, item)
		}
	}
	if len(policies) != 4 {
		t.Fatalf("the render wrote %d policies", len(policies))
	}
	return policies
}

// placesOf names the containers of a pod in their order.
func placesOf(t *testing.T, body string) string {
	t.Helper()
	var pod struct {
		Spec struct{ InitContainers, Containers []struct{ Name string } }
	}
	if err := json.Unmarshal([]byte(body), &pod); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("init %v of %v", pod.Spec.InitContainers, pod.Spec.Containers)
	return strings.NewReplacer("{", "", "}", "").Replace(text)
}

func (n *node) create(t *testing.T, path, object string) {
	t.Helper()
	if status, body := n.request(t, http.MethodPost, path, object); status != http.StatusCreated {
		t.Fatalf("%s: %d: %s", path, status, body)
	}
}

// request asks kube-apiserver as its administrator.
func (n *node) request(t *testing.T, method, path, object string) (status int, body string) {
	t.Helper()
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: n.tls.Clone()}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequest(method, "https://"+n.serving+path, strings.NewReader(object))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}
