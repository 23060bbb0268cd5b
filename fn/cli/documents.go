package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/rewrite"
)

// behindEnd finds what stands behind the end of a document, and is neither empty nor a comment.
var behindEnd = regexp.MustCompile(`(?m)^\.\.\.[ \t]*(#.*)?$(\s|^[ \t]*#.*$)*[^\s#]`)

// document is a part of a stream. What nobody changes is written as it was read.
type document struct {
	text []byte
	item *yaml.RNode // nil where it holds comments at most
}

// readDocuments reads a stream. Lists stay Lists.
func readDocuments(in io.Reader, name string) ([]*document, error) {
	text, err := io.ReadAll(in)
	if err == nil {
		text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
		err = node.CheckText(text)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var documents []*document
	from, line := 0, 0
	for _, end := range append(separator.FindAllIndex(text, -1), []int{len(text), len(text)}) {
		d := &document{text: text[from:min(end[0]+1, len(text))]} // the line feed that the separator took is its last
		if after := text[end[0]:end[1]]; len(after) > 0 && strings.Trim(string(after[4:]), " \t\n-") != "" && !bytes.Contains(after, []byte("#")) {
			return nil, fmt.Errorf("%s: line %d: %q stands behind the --- of a document; put it on a line of its own", name, line+bytes.Count(d.text, []byte("\n"))+1, bytes.TrimSpace(after[4:]))
		}
		if err := d.read(); err != nil {
			return nil, fmt.Errorf("%s: the document in line %d: %w", name, line+1, unquoted(err))
		}
		if d.item != nil {
			shiftLines(d.item.YNode(), line)
		}
		documents = append(documents, d)
		line += bytes.Count(text[from:end[1]], []byte("\n"))
		from = end[1]
	}
	return documents, nil
}

func (d *document) read() error {
	if behindEnd.Match(d.text) {
		return errors.New("goes on behind its end (...), where readers stop; put --- between documents")
	}
	text := d.text
	if !bytes.HasSuffix(text, []byte("\n")) {
		text = append(bytes.Clone(text), '\n')
	}
	items, err := (&kio.ByteReader{Reader: bytes.NewReader(text), OmitReaderAnnotations: true, DisableUnwrapping: true}).Read()
	if err != nil || len(items) == 0 {
		return err
	}
	d.item = items[0]
	return node.CheckItem(d.item)
}

// itemsOf are the items of documents.
func itemsOf(documents []*document) (items []*yaml.RNode) {
	for _, d := range documents {
		if d.item != nil {
			items = append(items, d.item)
		}
	}
	return items
}

// writeDocuments writes the documents of which items are left, in their order. Those that are new stand in front of the
// first that needs them, as some apply a stream in its order: Helm 3 does what a post-renderer prints.
func writeDocuments(out io.Writer, documents []*document, items []*yaml.RNode, kinds manifest.Kinds) error {
	left, read := map[*yaml.Node]bool{}, map[*yaml.Node]bool{}
	for _, item := range itemsOf(documents) {
		read[item.YNode()] = true
	}
	var made []*document
	for _, item := range items {
		left[item.YNode()] = true
		if !read[item.YNode()] {
			made = append(made, &document{item: item})
		}
	}
	some := len(made) > 0
	var text bytes.Buffer
	writeMade := func() error {
		for _, d := range made {
			if err := d.write(&text); err != nil {
				return err
			}
		}
		made = nil
		return nil
	}
	for i, d := range documents {
		if i == len(documents)-1 && d.item == nil && len(bytes.TrimSpace(d.text)) == 0 && text.Len() > 0 && some {
			continue // a --- at the end divides nothing
		}
		if d.item != nil && !left[d.item.YNode()] {
			continue
		}
		if d.item != nil && injected(d.item, kinds) {
			if err := writeMade(); err != nil {
				return err
			}
		}
		if err := d.write(&text); err != nil {
			return err
		}
	}
	if err := writeMade(); err != nil {
		return err
	}
	_, err := out.Write(text.Bytes())
	return err
}

// write appends the document, and what divides it from the one before.
func (d *document) write(text *bytes.Buffer) error {
	part := d.text
	if d.item != nil {
		var err error
		if part, err = rewrite.Document(d.text, d.item.YNode()); err != nil {
			return err
		}
	}
	if text.Len() > 0 && !bytes.HasPrefix(part, []byte("---")) {
		text.WriteString("---\n")
	}
	text.Write(part)
	if len(part) > 0 && part[len(part)-1] != '\n' {
		text.WriteByte('\n')
	}
	return nil
}
