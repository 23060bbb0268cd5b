package meshmap

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/internal/netset"
)

// Digest is the digest of what a map says of Services, both domains included. Maps of one digest mean the same
// by their Services.
type Digest [sha256.Size]byte

// ServicesDigest is the digest of the map. It costs far less than the text of the Services.
func (m *Map) ServicesDigest() Digest {
	hash := sha256.New()
	var b []byte
	text := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	ports := func(p netset.Ports) {
		b = binary.AppendUvarint(b, uint64(len(p)))
		for _, r := range p {
			b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, r.First), r.Last)
		}
	}
	text(m.TrustDomain)
	text(m.ClusterDomain)
	for _, s := range m.Services {
		text(s.Host)
		b = binary.AppendUvarint(b, uint64(len(s.ClusterIPs)))
		for _, ip := range s.ClusterIPs {
			b = append(ip.AppendTo(b), 0)
		}
		b = binary.AppendUvarint(b, uint64(len(s.Identities)))
		for _, id := range s.Identities {
			text(id)
		}
		ports(s.Ports)
		ports(s.PlaintextPorts)
		ports(s.PlaintextTargetPorts)
		hash.Write(b)
		b = b[:0]
	}
	hash.Write(b)
	return Digest(hash.Sum(nil))
}

// Writer writes the mesh maps of many namespaces. Those of one render have the same Services, and the text of these,
// which is nearly all of a map, is made once. The zero value is ready.
type Writer struct {
	made   bool
	digest Digest
	text   []byte // of the Services with that digest
}

// Marshal is Map.Marshal.
func (w *Writer) Marshal(m *Map) ([]byte, error) {
	if digest := m.ServicesDigest(); !w.made || digest != w.digest {
		text, err := m.marshalServices()
		if err != nil {
			return nil, err
		}
		*w = Writer{made: true, digest: digest, text: text}
	}
	return m.marshalWith(w.text)
}

// marshalWith is the text of the map with that of its Services, which marshalServices makes. A mapping is the
// concatenation of its fields, and these are in alphabetical order, as the YAML library would put them.
func (m *Map) marshalWith(services []byte) ([]byte, error) {
	before, err := yaml.Marshal(wireHead{APIVersion: m.APIVersion, Kind: m.Kind, ClusterDomain: m.ClusterDomain,
		Outbound: m.Outbound, Inbound: m.Inbound, Federation: m.Federation, RevokedKeys: m.RevokedKeys})
	if err != nil {
		return nil, err
	}
	after, err := yaml.Marshal(map[string]string{"trustDomain": m.TrustDomain})
	return slices.Concat(before, services, after), err
}

// Reader reads the mesh maps of many namespaces. Services that the map before had too, with the same text, are not read
// again. The zero value is ready.
type Reader struct {
	last *Map
	text []byte // of the Services of last, as Marshal writes it; nil until another map asks
}

// Parse is the function Parse. Maps share their Services, which must not be changed; ServicesDigest tells which are the
// same.
func (r *Reader) Parse(data []byte) (*Map, error) {
	if m := r.parseLike(data); m != nil {
		return m, nil
	}
	m, err := Parse(data)
	if err == nil {
		*r = Reader{last: m}
	}
	return m, err
}

// parseLike reads a map that has the Services of the last one; nil where it may not have them. What it reads is written
// again and compared with data, so that nothing depends on where the text of the Services was found.
func (r *Reader) parseLike(data []byte) *Map {
	if r.last == nil || len(r.last.Services) == 0 {
		return nil
	}
	if r.text == nil {
		r.text, _ = r.last.marshalServices()
	}
	before, after, found := bytes.Cut(data, r.text)
	if !found || len(r.text) == 0 {
		return nil
	}
	m, err := Parse(slices.Concat(before, after))
	if err != nil || m.Services != nil || m.TrustDomain != r.last.TrustDomain || m.ClusterDomain != r.last.ClusterDomain {
		return nil
	}
	m.Services = r.last.Services
	if again, err := m.marshalWith(r.text); err != nil || !bytes.Equal(again, data) {
		return nil
	}
	return m
}
