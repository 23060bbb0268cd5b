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

// itemsHead stands before the items of a list, and itemsEnd is one after them: an encoder writes each item between the
// two, so that the text is that of an encoder which writes the whole list, with the empty lines that follow some
// comments.
const (
	itemsHead = "items:\n"
	itemsEnd  = "- end\n"
)

// write writes the list as kio.ByteWriter does, byte for byte, and consumes the items. That one copies all of them
// first, and its encoder keeps what it has written until the end of the document, which together take more memory than
// a render: so each item gets an encoder of its own.
func (l *resourceList) write(out io.Writer) error {
	buffered := bufio.NewWriterSize(out, 1<<16)
	if err := l.writeTo(&partWriter{out: buffered}); err != nil {
		return err
	}
	return buffered.Flush()
}

func (l *resourceList) writeTo(w *partWriter) error {
	head := node.Object("apiVersion", kio.ResourceListAPIVersion, "kind", kio.ResourceListKind, "items", node.List("end"))
	if len(l.items) == 0 {
		node.Set(head, "items", node.List())
		head.Content = append(head.Content, l.tail()...)
		return w.write("", head, "")
	}
	if err := w.write("", head, itemsEnd); err != nil {
		return err
	}
	for i, item := range l.items {
		if err := yaml.ClearEmptyAnnotations(item); err != nil {
			return err
		}
		if err := w.write(itemsHead, node.Object("items", node.List(item.YNode(), "end")), itemsEnd); err != nil {
			return err
		}
		l.items[i] = nil // its memory serves those that follow
	}
	tail := node.Object("items", node.List("end"))
	tail.Content = append(tail.Content, l.tail()...)
	return w.write(itemsHead+itemsEnd, tail, "")
}

// tail is what follows the items: keys and values.
func (l *resourceList) tail() []*yaml.Node {
	var content []*yaml.Node
	if l.functionConfig != nil {
		content = append(content, node.Text("functionConfig"), l.functionConfig.YNode())
	}
	if l.results != nil {
		content = append(content, node.Text("results"), l.results.YNode())
	}
	return content
}

// partWriter writes parts of one YAML document.
type partWriter struct {
	out  io.Writer
	text bytes.Buffer
}

// write writes the text of a node without a head and an end that it must have.
func (w *partWriter) write(head string, n *yaml.Node, end string) error {
	w.text.Reset()
	if err := yaml.NewEncoder(&w.text).Encode(n); err != nil {
		return err
	}
	text, begins := bytes.CutPrefix(w.text.Bytes(), []byte(head))
	text, ends := bytes.CutSuffix(text, []byte(end))
	if !begins || !ends {
		panic("an item is not written as a part of a list") // a bug: whatever an item is, the list around it is ours
	}
	_, err := w.out.Write(text)
	return err
}
