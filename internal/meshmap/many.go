package meshmap

import (
	"bytes"
	"slices"

	"sigs.k8s.io/yaml"
)

// Writer writes the mesh maps of many namespaces. Those of one render share their Services, and the text of these,
// which is nearly all of a map, is made once. The zero value is ready.
type Writer struct {
	trustDomain, clusterDomain string
	services                   []Service
	text                       []byte // of the field services; empty without any
}

// Marshal is Mesh.Marshal.
func (w *Writer) Marshal(m *Map) ([]byte, error) {
	same := w.trustDomain == m.TrustDomain && w.clusterDomain == m.ClusterDomain && len(w.services) == len(m.Services)
	if !same || len(m.Services) > 0 && &w.services[0] != &m.Services[0] {
		// the same array: as long as the maps live, that is the same Services
		text, err := m.marshalServices()
		if err != nil {
			return nil, err
		}
		w.trustDomain, w.clusterDomain, w.services, w.text = m.TrustDomain, m.ClusterDomain, m.Services, text
	}
	rest, err := yaml.Marshal(wireMesh{APIVersion: m.APIVersion, Kind: m.Kind, TrustDomain: m.TrustDomain, ClusterDomain: m.ClusterDomain,
		Outbound: m.Outbound, Inbound: m.Inbound, Federation: m.Federation, RevokedKeys: m.RevokedKeys})
	if err != nil {
		return nil, err
	}
	at := bytes.Index(rest, afterServices) + 1
	return slices.Concat(rest[:at], w.text, rest[at:]), nil
}

// servicesField begins the Services in the text of a map, and afterServices what follows them: fields are sorted, and
// nothing else stands at the beginning of a line.
var servicesField, afterServices = []byte("\nservices:\n"), []byte("\ntrustDomain: ")

// Reader reads the mesh maps of many namespaces. Services that the map before had too, with the same text, are not read
// again. The zero value is ready.
type Reader struct {
	writer   Writer
	last     *Map
	services []byte // text of the Services of last; nil when it has none, or is none that Marshal writes
}

// Parse is Parse. Maps share their Services, which must not be changed.
func (r *Reader) Parse(data []byte) (*Map, error) {
	before, services, after := cutServices(data)
	if services != nil && bytes.Equal(services, r.services) {
		if m := r.withLast(slices.Concat(before, after)); m != nil {
			if text, err := r.writer.Marshal(m); err == nil && bytes.Equal(text, data) {
				// whatever the text says, it says this
				return m, nil
			}
		}
	}
	m, err := Parse(data)
	if err == nil {
		r.last, r.services = m, services
	}
	return m, err
}

// withLast reads a map without Services and gives it those of the last one; nil where that does not do.
func (r *Reader) withLast(data []byte) *Map {
	m, err := Parse(data)
	if err != nil || m.Services != nil || m.TrustDomain != r.last.TrustDomain || m.ClusterDomain != r.last.ClusterDomain {
		return nil
	}
	m.Services = r.last.Services
	return m
}

// cutServices divides the text of a map; services is nil where it has no such part.
func cutServices(data []byte) (before, services, after []byte) {
	from := bytes.Index(data, servicesField)
	if from < 0 {
		return data, nil, nil
	}
	to := bytes.Index(data[from:], afterServices)
	if to < 0 {
		return data, nil, nil
	}
	return data[:from+1], data[from+1 : from+to+1], data[from+to+1:]
}
