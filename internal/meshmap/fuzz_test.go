package meshmap_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshless-dev/meshless/internal/meshmap"
)

var same = cmp.Options{addrs, cmpopts.EquateEmpty()}

func sortedServices(m *meshmap.Map) *meshmap.Map {
	slices.SortFunc(m.Services, func(a, b meshmap.Service) int { return strings.Compare(a.Host, b.Host) })
	return m
}

func FuzzMeshEqual(f *testing.F) {
	text, err := mesh().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	const head = "apiVersion: meshless.dev/v1alpha1\nkind: Mesh\nnamespace: a\npackage: p\ntrustDomain: a\nclusterDomain: cluster.local\noutbound: {unknown: Deny}\ninbound: {mode: Strict, default: Deny}\n"
	f.Add(text)
	f.Add([]byte(head + "services: {prod: {web: deployment/web :80, db: {answers: statefulset/db, clusterIPs: [10.96.0.9, 'fd00::9']}}}"))
	f.Add([]byte(head + "services: {prod: {web: 'spiffe://a/ns/other/deployment/web deployment/web :80,443 :81', db: {answers: statefulset/db, plaintextPorts: 1-9}}}"))
	f.Add([]byte(head + "services: {prod: {web: {answers: deployment/web, directPorts: '8080,9000-9010'}}}\nservicePorts: {web.prod: '80', db.far: '5432-5433'}"))
	f.Add([]byte(head + "services: {prod: {web: 'spiffe://a/ns/prod/spiffe:/x deployment/web'}}"))
	f.Add([]byte(head + "federation: [{trustDomain: b, bundle: \"x\\n\", cidrs: [10.7.0.0/16, 'fd07::/16'], identities: ['spiffe://b/*']}, {trustDomain: c, bundle: ' y'}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := meshmap.Parse(data)
		if err != nil {
			return
		}
		text, err := m.Marshal()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		again, err := meshmap.Parse(text)
		if err != nil {
			t.Fatalf("what was written is refused: %v\n%s", err, text)
		}
		if diff := cmp.Diff(sortedServices(m), sortedServices(again), same); diff != "" {
			t.Errorf("reading again differs: %s\n%s", diff, text)
		}
	})
}
