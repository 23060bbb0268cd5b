package meshmap_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
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

// TestServicesDigest: maps whose Services are told apart by one field, or by which of two texts a part of it ends,
// differ, and a Writer notices what changed in the very Services that it wrote before.
func TestServicesDigest(t *testing.T) {
	if one, other := mesh(), mesh(); one.ServicesDigest() != other.ServicesDigest() {
		t.Error("two maps of the same Services differ")
	}
	seen := map[meshmap.Digest]string{mesh().ServicesDigest(): "the map"}
	for name, change := range map[string]func(*meshmap.Map, *meshmap.Service){
		"trust domain":   func(m *meshmap.Map, _ *meshmap.Service) { m.TrustDomain += "x" },
		"cluster domain": func(m *meshmap.Map, _ *meshmap.Service) { m.ClusterDomain += "x" },
		"moved letter": func(m *meshmap.Map, _ *meshmap.Service) {
			m.TrustDomain, m.ClusterDomain = "cluster.localc", "luster.local"
		},
		"host":       func(_ *meshmap.Map, s *meshmap.Service) { s.Host = "x" + s.Host },
		"no address": func(_ *meshmap.Map, s *meshmap.Service) { s.ClusterIPs = nil },
		"address": func(_ *meshmap.Map, s *meshmap.Service) {
			s.ClusterIPs = []netip.Addr{netip.MustParseAddr("10.96.9.9")}
		},
		"identity":      func(_ *meshmap.Map, s *meshmap.Service) { s.Identities = []string{s.Identities[0] + "x"} },
		"identities":    func(_ *meshmap.Map, s *meshmap.Service) { s.Identities = append(slices.Clone(s.Identities), webID) },
		"ports":         func(_ *meshmap.Map, s *meshmap.Service) { s.Ports = netset.PortsOf(80, 81) },
		"plaintext":     func(_ *meshmap.Map, s *meshmap.Service) { s.PlaintextPorts = netset.PortsOf(9091) },
		"plaintext two": func(_ *meshmap.Map, s *meshmap.Service) { s.PlaintextTargetPorts = netset.PortsOf(9092) },
		"none":          func(m *meshmap.Map, _ *meshmap.Service) { m.Services = nil },
	} {
		m := mesh()
		change(m, &m.Services[0])
		if other, ok := seen[m.ServicesDigest()]; ok {
			t.Errorf("%s: has the digest of %s", name, other)
		}
		seen[m.ServicesDigest()] = name
	}
	writer, m := &meshmap.Writer{}, mesh()
	if _, err := writer.Marshal(m); err != nil {
		t.Fatal(err)
	}
	m.Services[0].PlaintextPorts = netset.PortsOf(9091)
	got, err := writer.Marshal(m)
	want, wantErr := m.Marshal()
	if diff := cmp.Diff(string(want), string(got)); err != nil || wantErr != nil || diff != "" {
		t.Errorf("Services that changed are written as before (%v, %v):\n%s", err, wantErr, diff)
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
