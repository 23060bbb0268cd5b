package podplan

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
)

// Texts of the user in which somebody may substitute a variable once they are rendered (Flux, postBuild.substitute)
// stand behind the JSON, each in a line as it is, and the JSON refers to them: a quote or a backslash in the value
// would break the JSON, and in a line it is what it is in the probe itself.
const (
	textMark = "@text "
	variable = "${"
)

// texts are the user's texts of handlers, in one order.
func texts(handlers map[string]Handler) (all []*string) {
	for _, key := range slices.Sorted(maps.Keys(handlers)) {
		h := handlers[key]
		if h.HTTPGet != nil {
			all = append(all, &h.HTTPGet.Path)
			for i := range h.HTTPGet.Headers {
				all = append(all, &h.HTTPGet.Headers[i].Name, &h.HTTPGet.Headers[i].Value)
			}
		}
		if h.GRPC != nil {
			all = append(all, &h.GRPC.Service)
		}
	}
	return all
}

// apart tells whether a text stands behind the JSON: it has a variable, or looks like a reference.
func apart(text string) bool {
	inLine := strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) < 0 && strings.TrimSpace(text) == text
	return inLine && strings.Contains(text, variable) || isReference(text)
}

func isReference(text string) bool {
	number, ok := strings.CutPrefix(text, textMark)
	return ok && number != "" && strings.Trim(number, "0123456789") == ""
}

// takeApart replaces texts by references, in a copy of the handlers, and returns the lines.
func takeApart(handlers map[string]Handler) (map[string]Handler, string) {
	if !slices.ContainsFunc(texts(handlers), func(text *string) bool { return apart(*text) }) {
		return handlers, ""
	}
	copied := map[string]Handler{}
	for key, h := range handlers {
		if h.HTTPGet != nil {
			get := *h.HTTPGet
			get.Headers = slices.Clone(get.Headers)
			h.HTTPGet = &get
		}
		if h.GRPC != nil {
			grpc := *h.GRPC
			h.GRPC = &grpc
		}
		copied[key] = h
	}
	var lines strings.Builder
	n := 0
	for _, text := range texts(copied) {
		if apart(*text) {
			n++
			fmt.Fprintf(&lines, "%s%d: %s\n", textMark, n, *text)
			*text = fmt.Sprintf("%s%d", textMark, n)
		}
	}
	return copied, lines.String()
}

// putBack replaces references by the texts of the lines. Every line is used once, in order.
func putBack(handlers map[string]Handler, lines string) error {
	rest := strings.TrimLeft(lines, "\n")
	n := 0
	for _, text := range texts(handlers) {
		if !isReference(*text) {
			continue
		}
		n++
		line, behind, _ := strings.Cut(rest, "\n")
		value, ok := strings.CutPrefix(line, fmt.Sprintf("%s%d: ", textMark, n))
		if !ok || *text != fmt.Sprintf("%s%d", textMark, n) {
			return fmt.Errorf("text %d of its handlers is missing behind the JSON: does a value that was substituted in it have several lines?", n)
		}
		*text, rest = value, behind
	}
	if strings.TrimSpace(rest) != "" {
		return fmt.Errorf("has text behind its end: does a value that was substituted in it have several lines?")
	}
	return nil
}
