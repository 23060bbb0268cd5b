package cli

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
)

// resourceList is the input and the output of a KRM function (KRM functions specification, "ResourceList").
type resourceList struct {
	items          []*yaml.RNode
	functionConfig *yaml.RNode
	results        *yaml.RNode // of the output alone
}

// readResourceList reads what kio.ByteReadWriter reads, with its errors. That one keeps three copies of the text, so it
// gets only what is not the one document that kustomize and kpt send.
func readResourceList(in io.Reader) (*resourceList, error) {
	text, err := io.ReadAll(in)
	if err != nil {
		return nil, fmt.Errorf("standard input: %w", err)
	}
	if list := readPlainList(text); list != nil {
		return list, nil
	}
	stream := &kio.ByteReadWriter{Reader: bytes.NewReader(text), OmitReaderAnnotations: true}
	items, err := stream.Read()
	if err != nil {
		return nil, fmt.Errorf("standard input: %w", unquoted(err))
	}
	if len(items) == 0 && stream.WrappingKind == "" {
		return nil, errors.New("standard input is empty; it should be a ResourceList, as kustomize and kpt send it (see meshless --help)")
	}
	if len(items) == 1 && report.ObjectOf(items[0]).Kind == kio.ResourceListKind {
		// one with neither items nor functionConfig is not unwrapped
		items, stream.WrappingKind = nil, kio.ResourceListKind
	}
	if stream.WrappingKind != kio.ResourceListKind {
		return nil, errors.New("standard input is not a ResourceList, as kustomize and kpt send it (see meshless --help)")
	}
	return &resourceList{items: items, functionConfig: stream.FunctionConfig}, nil
}

// readPlainList reads a single document of kind ResourceList; nil for everything else, and for what cannot be read.
func readPlainList(text []byte) *resourceList {
	if bytes.Contains(text, []byte("\r\n")) || bytes.Contains(text, []byte("\n---")) {
		return nil
	}
	var document yaml.Node
	if err := yaml.NewDecoder(bytes.NewReader(text)).Decode(&document); err != nil || yaml.IsYNodeEmptyDoc(&document) {
		return nil
	}
	n := yaml.NewRNode(&document)
	if meta, err := n.GetMeta(); err != nil && !errors.Is(err, yaml.ErrMissingMetadata) || meta.Kind != kio.ResourceListKind {
		return nil
	}
	list, items := &resourceList{}, n.Field("items")
	if items == nil && n.Field("functionConfig") == nil {
		return nil
	}
	if items != nil {
		for _, item := range items.Value.Content() {
			list.items = append(list.items, yaml.NewRNode(item))
		}
	}
	if config := n.Field("functionConfig"); config != nil {
		list.functionConfig = config.Value
	}
	return list
}

// write writes the list as kio.ByteWriter does, byte for byte, and consumes the items. That one copies all of them
// first, and its encoder keeps what it has written until the end of the document, which together take more memory than
// a render: so each item is encoded as a list of its own.
func (l *resourceList) write(out io.Writer) error {
	buffered := bufio.NewWriterSize(out, 1<<16)
	w := &listWriter{out: buffered}
	w.encode(node.Object("apiVersion", kio.ResourceListAPIVersion, "kind", kio.ResourceListKind))
	if len(l.items) == 0 {
		w.encode(node.Object("items", node.List()))
	} else {
		w.text("items:\n")
	}
	for i, item := range l.items {
		if err := yaml.ClearEmptyAnnotations(item); err != nil {
			return err
		}
		w.encode(node.List(item.YNode()))
		w.foot = item.YNode().FootComment != ""
		l.items[i] = nil // its memory serves those that follow
	}
	if l.functionConfig != nil {
		w.encode(node.Object("functionConfig", l.functionConfig.YNode()))
		w.foot = l.functionConfig.YNode().FootComment != ""
	}
	if l.results != nil {
		w.encode(node.Object("results", l.results.YNode()))
	}
	return errors.Join(w.err, buffered.Flush())
}

// listWriter writes the parts of one YAML document. After the first error it writes nothing.
type listWriter struct {
	out  io.Writer
	foot bool // the last part ends in a comment of its own, which an empty line keeps from the next part
	err  error
}

func (w *listWriter) encode(part *yaml.Node) {
	if w.foot {
		w.text("\n")
	}
	if w.foot = false; w.err == nil {
		w.err = yaml.NewEncoder(w.out).Encode(part)
	}
}

func (w *listWriter) text(text string) {
	if w.err == nil {
		_, w.err = io.WriteString(w.out, text)
	}
}
