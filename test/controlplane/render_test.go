package controlplane

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/kio/kioutil"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/cli"
	"github.com/meshless-dev/meshless/internal/api"
)

// Where an item stands, as kyaml still writes it beside the names of today.
const (
	olderPath  = "config.kubernetes.io/path"
	olderIndex = "config.kubernetes.io/index"
)

const configHead = "apiVersion: meshless.dev/v1alpha1\nkind: MutualTLS\nmetadata: {name: mtls}\n"

// mesh is who may open what a package's renders seal.
type mesh struct{ cluster, ca string }

// render sends items through the function with more lines of the config, as kpt does: what comes back is stored. It
// returns nil items when the render is refused, and what it says.
func (m *mesh) render(t *testing.T, items []*yaml.RNode, spec string) (out []*yaml.RNode, messages string) {
	t.Helper()
	config := yaml.MustParse(configHead + "spec:\n" +
		"  sealing: {recipients: [" + m.cluster + "]}\n  certificates: {ca: {recipients: [" + m.ca + "]}}\n" + spec)
	list := listOf(t, items, config)
	var answer, said bytes.Buffer
	if code := cli.Main(nil, list, &answer, &said); code != 0 {
		return nil, said.String()
	}
	out, err := (&kio.ByteReadWriter{Reader: &answer, OmitReaderAnnotations: true}).Read()
	if err != nil {
		t.Fatal(err)
	}
	return out, said.String()
}

// mustRender is render for what an earlier render took.
func (m *mesh) mustRender(t *testing.T, items []*yaml.RNode, spec string) []*yaml.RNode {
	t.Helper()
	out, messages := m.render(t, items, spec)
	if out == nil {
		t.Fatalf("the render is refused:\n%s", messages)
	}
	return out
}

// listOf is what a function reads.
func listOf(t *testing.T, items []*yaml.RNode, config *yaml.RNode) *bytes.Buffer {
	t.Helper()
	var list bytes.Buffer
	writer := kio.ByteWriter{Writer: &list, KeepReaderAnnotations: true, FunctionConfig: config, WrappingKind: kio.ResourceListKind, WrappingAPIVersion: kio.ResourceListAPIVersion}
	if err := writer.Write(items); err != nil {
		t.Fatal(err)
	}
	return &list
}

// manifests are the objects of a text, as kpt reads them from a file, after what kyaml makes of them with a function
// that changes nothing. Comments at the ends of a file are lost then.
func manifests(t *testing.T, text string) ([]*yaml.RNode, error) {
	t.Helper()
	items, err := (&kio.ByteReader{Reader: strings.NewReader(text), DisableUnwrapping: true, SetAnnotations: map[string]string{kioutil.PathAnnotation: "app.yaml"}}).Read()
	if err != nil {
		return nil, err
	}
	return (&kio.ByteReader{Reader: listOf(t, items, yaml.MustParse(configHead)), OmitReaderAnnotations: true}).Read()
}

// written are the objects as kpt writes them, without its own annotations.
func written(t *testing.T, items []*yaml.RNode) string {
	t.Helper()
	var text bytes.Buffer
	copies := make([]*yaml.RNode, len(items))
	for i, item := range items {
		copies[i] = item.Copy() // the writer takes annotations out
	}
	writer := kio.ByteWriter{Writer: &text, ClearAnnotations: []string{kioutil.PathAnnotation, olderPath}}
	if err := writer.Write(copies); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// others are the objects that were in the input: neither what a render adds nor its state.
func others(items []*yaml.RNode) []*yaml.RNode {
	return slices.DeleteFunc(slices.Clone(items), func(item *yaml.RNode) bool {
		return item.GetAnnotations()[api.IdentityAnnotation] != ""
	})
}

// clearOwn takes out the annotations by which kpt knows where an item stands.
func clearOwn(item *yaml.RNode) error {
	for _, key := range []string{kioutil.PathAnnotation, olderPath, kioutil.IndexAnnotation, olderIndex, kioutil.SeqIndentAnnotation} {
		if err := item.PipeE(yaml.ClearAnnotation(key)); err != nil {
			return err
		}
	}
	return yaml.ClearEmptyAnnotations(item)
}
