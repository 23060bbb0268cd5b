//go:build linux || darwin

package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/test/scale/manifests"
)

// rendered is how many bytes a render of n workloads leaves, and how many of them are in the largest mesh map.
func rendered(t *testing.T, n, namespaces int) (whole, largestMap int) {
	t.Helper()
	var input strings.Builder
	for i := range n {
		input.WriteString("---\n" + manifests.Application(i, namespaces))
	}
	items, err := (&kio.ByteReader{Reader: strings.NewReader(input.String()), OmitReaderAnnotations: true}).Read()
	if err != nil {
		t.Fatal(err)
	}
	config, err := v1alpha1.Load(yaml.MustParse(fmt.Sprintf(manifests.Config, "meshless")))
	if err != nil {
		t.Fatal(err)
	}
	r := &report.Report{}
	out := pipeline.Run(items, config, pipeline.Options{Now: time.Now(), Mode: pipeline.Store, MayConsume: true}, r)
	if r.Failed() {
		t.Fatal(r.Errors())
	}
	for _, item := range out {
		whole += len(item.MustString())
	}
	for _, mesh := range manifest.FindState(out).Meshes {
		largestMap = max(largestMap, len(mesh.MustString()))
	}
	return whole, largestMap
}

// TestBytes: what a render leaves grows with the workloads, whatever number of namespaces they are spread over, and a
// mesh map with its own namespace. Bytes are the same on every machine; what time and memory they take, the command
// measures.
func TestBytes(t *testing.T) {
	n := 4000
	if testing.Short() {
		n = 400
	}
	few, ofFew := rendered(t, n, 10)
	many, ofMany := rendered(t, n, n/10)
	t.Logf("%d workloads: %d bytes in 10 namespaces, %d in %d (%.2f times); the largest maps have %d and %d", n, few, many, n/10, float64(many)/float64(few), ofFew, ofMany)
	if many*10 > few*13 {
		t.Errorf("%d bytes in %d namespaces, and %d in 10: more than 1.3 times as many", many, n/10, few)
	}
	// the names of the other namespaces are what a map has of the rest of the mesh
	if limit := ofFew*10/(n/10)*2 + 1000 + 16*n/10; ofMany > limit {
		t.Errorf("the map of a namespace with 10 Services has %d bytes, want at most %d", ofMany, limit)
	}
}
