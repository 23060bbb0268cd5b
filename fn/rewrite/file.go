package rewrite

import (
	"bytes"
	"errors"
	"io"
	"regexp"

	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// separator is what kyaml takes for the end of a document, without the line feed before it, which is the document's.
var separator = regexp.MustCompile(`(?m)^---.*\n`)

// part is a piece of a file: a document, or comments alone, behind its separator.
type part struct {
	separator, text []byte
	holds           bool // an object
}

// File is the text of a file, apart into its documents.
type File struct {
	parts   []part
	damaged bool
}

// Split takes the text of a file apart, at the places where kyaml's reader does. A text that cannot be read counts as
// none.
func Split(text []byte) *File {
	f := &File{}
	from, head := 0, []byte(nil)
	add := func(end int) {
		p := part{separator: head, text: text[from:end]}
		n, err := firstValue(p.text)
		p.holds = n != nil && !yaml.IsYNodeTaggedNull(n)
		f.parts, f.damaged = append(f.parts, p), f.damaged || err != nil
	}
	for _, at := range separator.FindAllIndex(text, -1) {
		if at[0] == 0 {
			continue // it begins the first document
		}
		add(at[0])
		from, head = at[1], text[at[0]:at[1]]
	}
	if add(len(text)); f.damaged {
		return &File{}
	}
	return f
}

// firstValue is what the reader takes from a document; nil where it holds comments at most.
func firstValue(text []byte) (*yaml.Node, error) {
	var n yaml.Node
	err := yaml.NewDecoder(bytes.NewReader(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")))).Decode(&n)
	if errors.Is(err, io.EOF) || err == nil && len(n.Content) != 1 {
		return nil, nil
	}
	return resolved(&n), err
}

// Values are the objects of the file, in their order.
func (f *File) Values() (values []*yaml.Node) {
	for _, p := range f.parts {
		if p.holds {
			n, _ := firstValue(p.text)
			values = append(values, n)
		}
	}
	return values
}

// Rewrite is the text of the file with other objects: by their index in Values those that were there, and further ones.
// Those that are not given go; what holds comments alone stays.
func (f *File) Rewrite(there map[int]*yaml.Node, further []*yaml.Node) ([]byte, error) {
	var out bytes.Buffer
	put := func(separator, text []byte) {
		if out.Len() > 0 {
			if !bytes.HasSuffix(out.Bytes(), []byte("\n")) {
				out.WriteByte('\n')
			}
			if len(separator) == 0 {
				separator = []byte("---\n")
			}
			out.Write(separator)
		}
		out.Write(text)
	}
	i := 0
	for at, p := range f.parts {
		if p.holds {
			n := there[i]
			if i++; n == nil {
				continue
			}
			was := p.text
			if at == len(f.parts)-1 && len(further) > 0 && !bytes.HasSuffix(was, []byte("\n")) {
				was = append(bytes.Clone(was), '\n') // which may be one more of a block scalar
			}
			text, err := Document(was, n)
			if err != nil {
				return nil, err
			}
			p.text = text
		}
		put(p.separator, p.text)
	}
	for _, n := range further {
		text, err := Document(nil, n)
		if err != nil {
			return nil, err
		}
		put(nil, text)
	}
	return out.Bytes(), nil
}
