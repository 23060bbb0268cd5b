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
)

// refuseUnread refuses a second JSON document behind a first one without a separator: kyaml reads the first alone, and
// kubectl applies both.
func refuseUnread(text []byte) error {
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
