package controlplane

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// dryRunner asks an API server what it would make of objects.
type dryRunner struct {
	url        string
	client     *http.Client
	kinds      map[string]resourceKind // by apiVersion and kind
	namespaces map[string]bool         // those that are there

	applied, ours int // how many objects were asked for, and how many of them a render had added
}

type resourceKind struct {
	path       string // of the resource in a group, as /apis/apps/v1
	name       string // as deployments
	namespaced bool
}

// newDryRunner starts etcd and kube-apiserver. The admission plugin that wants a ServiceAccount for each pod is off:
// nobody makes any here.
func newDryRunner(t *testing.T) *dryRunner {
	t.Helper()
	apiserver, etcd := binaries(t)
	commands, n := render(t, "{controlPlane: false}"), newNode(t)
	n.ready(t, n.start(t, etcd, commands["etcd"]), "https://"+n.client+"/health")
	n.ready(t, n.start(t, apiserver, append(commands["kube-apiserver"], "--disable-admission-plugins=ServiceAccount")), "https://"+n.serving+"/readyz")
	d := &dryRunner{"https://" + n.serving, &http.Client{Transport: &http.Transport{TLSClientConfig: n.tls}}, map[string]resourceKind{}, map[string]bool{}, 0, 0}
	t.Cleanup(d.client.CloseIdleConnections)
	d.discover(t, "/api")
	d.discover(t, "/apis")
	return d
}

// discover reads the kinds that the server knows.
func (d *dryRunner) discover(t *testing.T, root string) {
	t.Helper()
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Versions []struct {
				Version   string
				Resources []struct {
					Resource, Scope string
					ResponseKind    struct{ Kind string }
				}
			}
		}
	}
	header := http.Header{"Accept": {"application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"}}
	status, body := d.send(t, http.MethodGet, root, header, nil)
	if err := json.Unmarshal(body, &list); err != nil || status != http.StatusOK || len(list.Items) == 0 {
		t.Fatalf("%s: %d, %v", root, status, err)
	}
	for _, group := range list.Items {
		for _, version := range group.Versions {
			apiVersion, path := version.Version, root+"/"+version.Version
			if group.Metadata.Name != "" {
				apiVersion, path = group.Metadata.Name+"/"+version.Version, root+"/"+group.Metadata.Name+"/"+version.Version
			}
			for _, r := range version.Resources {
				d.kinds[apiVersion+" "+r.ResponseKind.Kind] = resourceKind{path, r.Resource, r.Scope == "Namespaced"}
			}
		}
	}
}

// knows tells whether the server knows the kind of an object. Those of CRDs it does not.
func (d *dryRunner) knows(item *yaml.RNode) bool {
	_, known := d.kinds[item.GetApiVersion()+" "+item.GetKind()]
	return known
}

// apply says why the server would not take an object by a strict server-side apply; "" where it would.
func (d *dryRunner) apply(t *testing.T, item *yaml.RNode) string {
	t.Helper()
	kind, path := d.kinds[item.GetApiVersion()+" "+item.GetKind()], ""
	if path = kind.path; kind.namespaced {
		namespace := item.GetNamespace()
		if namespace == "" {
			namespace = "default"
		}
		if !d.namespaces[namespace] {
			d.namespaces[namespace] = true
			header := http.Header{"Content-Type": {"application/json"}}
			status, body := d.send(t, http.MethodPost, "/api/v1/namespaces", header, []byte(`{"metadata": {"name": "`+namespace+`"}}`))
			if status != http.StatusCreated && status != http.StatusConflict {
				return string(body)
			}
		}
		path += "/namespaces/" + namespace
	}
	text, err := item.MarshalJSON()
	if err != nil {
		return err.Error()
	}
	const strict = "?dryRun=All&fieldValidation=Strict&fieldManager=corpus"
	method, at, header := http.MethodPatch, path+"/"+kind.name+"/"+url.PathEscape(item.GetName())+strict+"&force=true", "application/apply-patch+yaml"
	if item.GetName() == "" { // generateName: only kubectl create takes it
		method, at, header = http.MethodPost, path+"/"+kind.name+strict, "application/json"
	}
	status, body := d.send(t, method, at, http.Header{"Content-Type": {header}}, text)
	if status == http.StatusOK || status == http.StatusCreated {
		return ""
	}
	var refusal struct{ Message string }
	if err := json.Unmarshal(body, &refusal); err != nil || refusal.Message == "" {
		return string(body)
	}
	return refusal.Message
}

func (d *dryRunner) send(t *testing.T, method, path string, header http.Header, body []byte) (status int, answer []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, d.url+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header = header
	response, err := d.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if answer, err = io.ReadAll(response.Body); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, answer
}
