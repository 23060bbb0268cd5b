package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	k8sjson "sigs.k8s.io/json"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// Decode reads a node into a struct with the rules of the Kubernetes API: JSON names, case-sensitive. The node must
// have passed CheckAliases.
func Decode(n *yaml.RNode, into any) error {
	data, err := JSON(n)
	if err != nil {
		return err
	}
	return describe(k8sjson.UnmarshalCaseSensitivePreserveInts(data, into), data)
}

// DecodeStrict is Decode in which unknown and repeated fields are errors; they are returned apart from the error that
// nothing could be read.
func DecodeStrict(n *yaml.RNode, into any) (mistakes []error, err error) {
	data, err := JSON(n)
	if err != nil {
		return nil, err
	}
	mistakes, err = k8sjson.UnmarshalStrict(data, into)
	if err = describe(err, data); err != nil {
		err = everyField(n, err, reflect.TypeOf(into).Elem())
	}
	return mistakes, err
}

// JSON writes a node as JSON. kyaml's own way goes through YAML text and back, which is most of what a render would
// cost.
func JSON(n *yaml.RNode) ([]byte, error) {
	var out bytes.Buffer
	err := writeJSON(&out, n.YNode())
	if path := oddKey(n.YNode()); err != nil && path != "" {
		err = FieldError{path, "has a key that is no text, as {{ … }} has: where it is of a template, render that first; else write it in quotes"}
	}
	return out.Bytes(), err
}

// oddKey is where a mapping at or below n has a mapping or a list as its key, which neither JSON nor Kubernetes knows;
// "" where there is none.
func oddKey(n *yaml.Node) string {
	for i, child := range n.Content {
		step := "[" + strconv.Itoa(i) + "]"
		if n.Kind == yaml.MappingNode {
			if i%2 == 0 {
				continue
			}
			step = n.Content[i-1].Value
		}
		if hasOddKey(child) {
			return step
		}
		if below := oddKey(child); strings.HasPrefix(below, "[") {
			return step + below
		} else if below != "" {
			return step + "." + below
		}
	}
	return ""
}

func hasOddKey(n *yaml.Node) bool {
	for i := 0; n.Kind == yaml.MappingNode && i < len(n.Content); i += 2 {
		if kind := n.Content[i].Kind; kind == yaml.MappingNode || kind == yaml.SequenceNode {
			return true
		}
	}
	return false
}

func writeJSON(out *bytes.Buffer, n *yaml.Node) error {
	switch n.Kind {
	case yaml.DocumentNode:
		return writeJSON(out, n.Content[0])
	case yaml.AliasNode:
		return writeJSON(out, n.Alias)
	case yaml.MappingNode:
		return writeObject(out, n)
	case yaml.SequenceNode:
		out.WriteByte('[')
		for i, child := range n.Content {
			if i > 0 {
				out.WriteByte(',')
			}
			if err := writeJSON(out, child); err != nil {
				return err
			}
		}
		out.WriteByte(']')
		return nil
	}
	return writeScalar(out, n)
}

func writeObject(out *bytes.Buffer, n *yaml.Node) error {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Kind != yaml.ScalarNode || n.Content[i].ShortTag() == "!!merge" {
			data, err := yaml.NewRNode(n).MarshalJSON() // merges, and keys that JSON has not
			out.Write(data)
			return err
		}
	}
	out.WriteByte('{')
	for i := 0; i+1 < len(n.Content); i += 2 {
		if i > 0 {
			out.WriteByte(',')
		}
		if err := writeString(out, n.Content[i].Value); err != nil {
			return err
		}
		out.WriteByte(':')
		if err := writeJSON(out, n.Content[i+1]); err != nil {
			return err
		}
	}
	out.WriteByte('}')
	return nil
}

func writeScalar(out *bytes.Buffer, n *yaml.Node) error {
	switch tag := n.ShortTag(); {
	case tag == yaml.NodeTagString || tag == "!!timestamp":
		return writeString(out, n.Value)
	case tag == yaml.NodeTagNull:
		out.WriteString("null")
		return nil
	case tag == yaml.NodeTagInt && isPlainInt(n.Value), tag == yaml.NodeTagBool && (n.Value == "true" || n.Value == "false"):
		out.WriteString(n.Value)
		return nil
	}
	var value any // numbers in all their spellings, booleans, binary: as the YAML library means them
	if err := n.Decode(&value); err != nil {
		return err
	}
	return writeValue(out, value)
}

// isPlainInt tells whether a number is written as JSON writes it. One that is too large for that is left to the YAML
// library.
func isPlainInt(s string) bool {
	return len(s) < 19 && (s == "0" || s != "" && s[0] != '0' && strings.Trim(s, "0123456789") == "")
}

// writeString writes what json.Marshal writes.
func writeString(out *bytes.Buffer, s string) error {
	if strings.IndexFunc(s, mustEscape) >= 0 {
		return writeValue(out, s)
	}
	out.WriteByte('"')
	out.WriteString(s)
	out.WriteByte('"')
	return nil
}

// mustEscape is true of every character that JSON may not hold as it is, and of more.
func mustEscape(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`"\<>&`, r) }

func writeValue(out *bytes.Buffer, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("cannot be written as JSON: %w", err)
	}
	out.Write(data)
	return nil
}

// Values is a node as values of JSON, with aliases and merge keys resolved; numbers are as they were written.
func Values(n *yaml.Node) (any, error) {
	data, err := JSON(yaml.NewRNode(n))
	if err != nil {
		return nil, err
	}
	return ParseJSON(data)
}

// ParseJSON reads a value of JSON; numbers are as they were written.
func ParseJSON(data []byte) (v any, err error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	return v, decoder.Decode(&v)
}
