package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	k8sjson "sigs.k8s.io/json"
)

// FieldError is a decoding error of one field. The path starts at the node that was decoded.
type FieldError struct{ Path, Message string }

func (e FieldError) Error() string { return e.Path + " " + e.Message }

// FieldOf takes an error of Decode, or a mistake of DecodeStrict, apart: the field, "" where it is of none, and what is
// wrong with it.
func FieldOf(err error) (path, message string) {
	var ours FieldError
	var strict k8sjson.FieldError
	switch {
	case errors.As(err, &ours):
		return ours.Path, ours.Message
	case errors.As(err, &strict):
		return strict.FieldPath(), err.Error()
	}
	return "", err.Error()
}

// describe says a decoding error of data for a person: the field, what it holds, what it should hold, and the way out
// where quotes make the difference. It quotes no values but numbers and booleans, since others may be secrets.
func describe(err error, data []byte) error {
	if err != nil && strings.HasPrefix(err.Error(), "time: ") { // of time.ParseDuration, by metav1.Duration
		return errors.New("is not a duration like 720h")
	}
	wrong := new(json.UnmarshalTypeError)
	if !errors.As(err, &wrong) {
		return err
	}
	field, value := wrong.Field, json.Token(nil)
	if path, token := valueAt(data, wrong.Offset); matches(path, wrong.Field) {
		field, value = path, token
	}
	belongs := wrong.Type.String()
	switch kind := wrong.Type.Kind(); {
	case kind == reflect.String:
		return FieldError{field, "is a " + wrong.Value + " where text belongs: write it in quotes"}
	case kind == reflect.Bool:
		belongs = "true or false"
	case reflect.Int <= kind && kind <= reflect.Float64 && !strings.HasPrefix(wrong.Value, "number"):
		// to a number, the type says why it does not fit
		belongs = "number"
	}
	if text, quoted := value.(string); quoted && fitsUnquoted(text, wrong.Type) {
		return FieldError{field, fmt.Sprintf("is a string where %s belongs: write %s without quotes", article(belongs), text)}
	}
	return FieldError{field, fmt.Sprintf("is a %s where %s belongs", wrong.Value, article(belongs))}
}

func article(noun string) string {
	if noun == "true or false" {
		return noun
	}
	return "a " + noun
}

// fitsUnquoted tells whether a text would be right without its quotes.
func fitsUnquoted(text string, t reflect.Type) bool {
	var err error
	switch kind := t.Kind(); {
	case kind == reflect.Bool:
		return text == "true" || text == "false"
	case reflect.Int <= kind && kind <= reflect.Int64:
		_, err = strconv.ParseInt(text, 10, t.Bits())
	case reflect.Uint <= kind && kind <= reflect.Uint64:
		_, err = strconv.ParseUint(text, 10, t.Bits())
	default:
		return false
	}
	return err == nil
}

// valueAt is the path of the value that ends, or of the object or array that begins, at an offset, like
// spec.containers[0].name, and its token. The decoder's own path has no indexes.
func valueAt(data []byte, offset int64) (string, json.Token) {
	var steps []step
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	for {
		token, err := decoder.Token()
		if err != nil {
			return "", nil
		}
		delim, isDelim := token.(json.Delim)
		if isDelim && (delim == '}' || delim == ']') {
			steps = steps[:len(steps)-1]
			continue
		}
		if n := len(steps); n > 0 && steps[n-1].enter(token) {
			continue
		}
		if decoder.InputOffset() >= offset {
			return pathOf(steps), token
		}
		if isDelim {
			steps = append(steps, step{list: delim == '[', index: -1})
		}
	}
}

// step is an object or array on the way to a value, and where in it.
type step struct {
	list  bool
	index int
	key   string
	named bool // key is that of the value which comes next
}

// enter takes a token within the object or array, and tells whether it is a key.
func (s *step) enter(token json.Token) (key bool) {
	if s.list {
		s.index++
		return false
	}
	if s.named = !s.named; s.named {
		s.key, _ = token.(string)
	}
	return s.named
}

func pathOf(steps []step) string {
	var path strings.Builder
	for i, s := range steps {
		switch {
		case s.list:
			fmt.Fprintf(&path, "[%d]", s.index)
		case i > 0:
			path.WriteString("." + s.key)
		default:
			path.WriteString(s.key)
		}
	}
	return path.String()
}

// matches tells whether a path is one of the decoder's field, which lacks the keys of maps, and has the Go names of
// embedded structs. It is not where a type reads itself, so that the offset counts from its own beginning.
func matches(path, field string) bool {
	parts := strings.Split(field, ".")
	parts = slices.DeleteFunc(parts, func(part string) bool { return part == "" || 'A' <= part[0] && part[0] <= 'Z' })
	if len(parts) == 0 {
		return false
	}
	for segment := range strings.SplitSeq(path, ".") {
		name, _, _ := strings.Cut(segment, "[")
		if len(parts) > 0 && name == parts[0] {
			parts = parts[1:]
		}
	}
	return len(parts) == 0
}
