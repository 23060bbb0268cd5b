package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

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
