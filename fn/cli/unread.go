package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
)

// strangeBreak finds a separator behind a line break other than a line feed. YAML knows it, and kyaml does not split
// there.
var strangeBreak = regexp.MustCompile("[\r\u0085\u2028\u2029]---")

// refuseUnread refuses what hides documents from kyaml, which reads the first alone: UTF-16, in which it finds no
// separator, strange line breaks, and a second JSON document behind a first one, of which kubectl applies both.
func refuseUnread(text []byte) error {
	if isUTF16(text) {
		return errors.New("is UTF-16, as PowerShell writes it with > before version 7; write it as UTF-8: … | Out-File -Encoding utf8 FILE")
	}
	if strangeBreak.Match(text) {
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

// refuseJSON refuses a folder with a manifest in a *.json file: kustomize and kpt do not read it, and `kubectl apply
// -f` applies it.
func refuseJSON(folder string) error {
	return filepath.WalkDir(folder, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(name) != ".json" || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		var object struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
		}
		if json.NewDecoder(bytes.NewReader(text)).Decode(&object) == nil && object.APIVersion != "" && object.Kind != "" {
			return fmt.Errorf("%s: is a manifest in JSON, which `kubectl apply -f` applies, and kustomize, kpt and this command do not read in a folder; write it as YAML, or give the folder elsewhere", name)
		}
		return nil
	})
}
