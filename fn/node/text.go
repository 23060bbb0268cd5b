package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
)

// strangeBreaks are separators behind line breaks other than a line feed. YAML knows them, and kyaml does not split
// there.
var strangeBreaks = [][]byte{[]byte("\r---"), []byte("\u0085---"), []byte("\u2028---"), []byte("\u2029---")}

// CheckText refuses what hides documents from kyaml, which reads the first alone: UTF-16, in which it finds no
// separator, strange line breaks, and a second JSON document behind a first one, of which kubectl applies both.
func CheckText(text []byte) error {
	if isUTF16(text) {
		return errors.New("is UTF-16, as PowerShell writes it with > before version 7; write it as UTF-8: … | Out-File -Encoding utf8 FILE")
	}
	if slices.ContainsFunc(strangeBreaks, func(b []byte) bool { return bytes.Contains(text, b) }) {
		return errors.New("has a --- behind a line break that is no line feed, where this command would see no new document; write line feeds, or CRLF")
	}
	for chunk := range bytes.SplitSeq(text, []byte("\n---")) {
		if chunk = bytes.TrimSpace(chunk); len(chunk) == 0 || chunk[0] != '{' {
			continue
		}
		decoder := json.NewDecoder(bytes.NewReader(chunk))
		var first json.RawMessage
		if decoder.Decode(&first) != nil {
			continue // YAML in flow style
		}
		if err := decoder.Decode(&first); !errors.Is(err, io.EOF) {
			return errors.New("holds something behind a JSON document, which kubectl would apply and this command cannot see; put --- between documents")
		}
	}
	return nil
}

// isUTF16 tells whether a document begins with a byte order mark of UTF-16, which no UTF-8 holds.
func isUTF16(text []byte) bool {
	for _, mark := range []string{"\xff\xfe", "\xfe\xff"} {
		if bytes.HasPrefix(text, []byte(mark)) || bytes.Contains(text, []byte("\n"+mark)) {
			return true
		}
	}
	return false
}
