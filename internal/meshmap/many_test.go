package meshmap_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
)

// maps are those of several namespaces: Services shared and not, policies of their own, none of either.
func maps() []*meshmap.Map {
	shared, open, other, empty, moved := mesh(), mesh(), mesh(), mesh(), mesh()
	open.Services, open.Inbound.Policy = shared.Services, nil
	other.Services[0].Host, other.Services[0].ClusterIPs = "api.prod.svc.cluster.local", nil
	empty.Services = nil
	moved.ClusterDomain, moved.Services[0].Host = "cluster.example", "web.prod.svc.cluster.example"
	return []*meshmap.Map{shared, open, shared, other, shared, empty, empty, open, moved}
}

// TestManyMeshes: what is written and read with others is what is written and read alone, in any order.
func TestManyMeshes(t *testing.T) {
	writer, reader := &meshmap.Writer{}, &meshmap.Reader{}
	for i, m := range maps() {
		text, err := writer.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		alone, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(alone), string(text)); diff != "" {
			t.Errorf("map %d written with others:\n%s", i, diff)
		}
		var generic any
		if err := yaml.Unmarshal(text, &generic); err != nil {
			t.Fatal(err)
		}
		if whole, err := yaml.Marshal(generic); err != nil || string(whole) != string(text) {
			t.Errorf("map %d is not what the YAML library writes of the whole (%v):\n%s", i, err, cmp.Diff(string(whole), string(text)))
		}
		got, err := reader.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, got, addrs); diff != "" {
			t.Errorf("map %d read with others:\n%s", i, diff)
		}
	}
}

// TestManyMeshesEdited: a map whose Services read as those before, and that an edit around them changed, is read as
// ParseMesh reads it.
func TestManyMeshesEdited(t *testing.T) {
	text, err := mesh().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	good := string(text)
	for name, edited := range map[string]string{
		"comment":         good + "# a comment\n",
		"unknown field":   good + "more: 1\n",
		"services twice":  good + "services:\n  prod:\n    db: statefulset/db\n",
		"other domain":    strings.Replace(good, "\ntrustDomain: cluster.local", "\ntrustDomain: other", 1),
		"cluster domain":  strings.Replace(good, "\nclusterDomain: cluster.local", "\nclusterDomain: other", 1),
		"mode":            strings.Replace(good, "mode: Strict", "mode: Permissive", 1),
		"bad mode":        strings.Replace(good, "mode: Strict", "mode: Off", 1),
		"order":           strings.Replace(good, "apiVersion: "+api.APIVersion+"\n", "", 1) + "apiVersion: " + api.APIVersion + "\n",
		"in a text":       strings.Replace(good, "\nclusterDomain: cluster.local", "\nclusterDomain: \"cluster.local\n  \"", 1),
		"a text around":   strings.Replace(strings.Replace(good, "\nservices:", "\nx: \"\nservices:", 1), "\ntrustDomain", "\"\ntrustDomain", 1),
		"of another line": strings.Replace(good, "\nservices:\n", "\nservices:\n\n", 1),
	} {
		t.Run(name, func(t *testing.T) {
			reader := &meshmap.Reader{}
			if _, err := reader.Parse(text); err != nil {
				t.Fatal(err)
			}
			want, wantErr := meshmap.Parse([]byte(edited))
			got, err := reader.Parse([]byte(edited))
			if (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() {
				t.Errorf("got the error %v, want %v", err, wantErr)
			}
			if diff := cmp.Diff(want, got, addrs); diff != "" {
				t.Error(diff)
			}
		})
	}
}
