package kustomize

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/fn/runtime/runtimeutil"
	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/fn/node"
)

// content is a kustomization, field by field, in JSON: an encoder of YAML changes the value of some texts.
type content map[string]json.RawMessage

// parseContent reads a kustomization as kustomize does; nil where that cannot, and will say why.
func parseContent(text []byte) content {
	asJSON, err := sigsyaml.YAMLToJSON(text)
	if err != nil {
		return nil
	}
	var k content
	if json.Unmarshal(asJSON, &k) != nil {
		return nil
	}
	return k
}

// text is a field that is a string; "" for any other.
func (k content) text(field string) string {
	var s string
	_ = json.Unmarshal(k[field], &s) // kustomize says what is wrong with it
	return s
}

// list is a field that is a list of strings; nil for any other.
func (k content) list(field string) []string {
	var l []string
	if json.Unmarshal(k[field], &l) != nil {
		return nil // kustomize says what is wrong with it
	}
	return l
}

func (k content) setList(field string, values []string) {
	if delete(k, field); len(values) > 0 {
		k[field], _ = json.Marshal(values) // strings have a JSON form
	}
}

// tree is the file system that a build reads from. The first kustomization that is read is the outermost, wherever a
// URL was cloned to; it reads differently. Of the others the tree notes which functions they list.
type tree struct {
	filesys.FileSystem
	edit          func(folder string, k content) error // nil leaves the outermost kustomization as it is
	plugins, exec bool                                 // kustomize runs functions, and exec functions

	root    string // file of the outermost kustomization
	failed  error  // of edit
	unread  error  // of the first file that hides manifests from kustomize
	listed  []listed
	configs map[string][]byte // files that may hold configs of functions
	plain   map[string]bool   // files of manifests
}

func newTree(fs filesys.FileSystem, o *krusty.Options) *tree {
	return &tree{FileSystem: fs, plugins: o.PluginConfig.PluginRestrictions == types.PluginRestrictionsNone, exec: o.PluginConfig.FnpLoadingOptions.EnableExec}
}

// listed is an entry of a kustomization that names a function.
type listed struct{ file, field, entry string }

// functionFields are the fields of a kustomization that list configs of functions.
var functionFields = []string{"generators", "transformers", "validators"}

// ReadFile implements filesys.FileSystem.
func (t *tree) ReadFile(path string) ([]byte, error) {
	text, err := t.FileSystem.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(konfig.RecognizedKustomizationFileNames(), filepath.Base(path)) {
		if t.plain[path] {
			if err := node.CheckText(text); err != nil {
				t.unread = cmp.Or(t.unread, fmt.Errorf("%s: %w", path, err))
			}
		}
		t.noteConfig(path, text)
		return text, nil
	}
	k := parseContent(text)
	if k == nil {
		return text, nil
	}
	if t.edit != nil && (t.root == "" || t.root == path) {
		t.root = path
		if t.failed = t.edit(filepath.Dir(path), k); t.failed != nil {
			return nil, t.failed
		}
		if text, err = json.Marshal(k); err != nil {
			return nil, err
		}
	}
	for _, entry := range k.list("resources") {
		if t.plain == nil {
			t.plain = map[string]bool{}
		}
		t.plain[filepath.Join(filepath.Dir(path), entry)] = true
	}
	for _, field := range functionFields {
		for _, entry := range k.list(field) {
			t.listed = append(t.listed, listed{path, field, entry})
		}
	}
	return text, nil
}

// noteConfig keeps the text of what may be the config of a function.
func (t *tree) noteConfig(path string, text []byte) {
	for _, mark := range []string{"MutualTLS", runtimeutil.FunctionAnnotationKey, "config.k8s.io/function"} {
		if bytes.Contains(text, []byte(mark)) {
			if t.configs == nil {
				t.configs = map[string][]byte{}
			}
			t.configs[path] = text
			return
		}
	}
}

// misplaced is the first file whose manifests kustomize would leave out in silence, or the first function that it would
// run where it does not belong, or not run at all.
func (t *tree) misplaced() error {
	if t.unread != nil {
		return t.unread
	}
	for _, l := range t.listed {
		for _, config := range t.configsOf(l) {
			if isConfig(config) {
				return fmt.Errorf("%s: %s: %q holds a MutualTLS, which here sees names before what lies above sets prefix and namespace; "+
					"list it as the last of the transformers of the outermost overlay, and nowhere else", l.file, l.field, firstLine(l.entry))
			}
			spec, err := runtimeutil.GetFunctionSpec(config)
			if err != nil || spec == nil || spec.Container.Image != "" || !t.plugins { // kustomize runs it, or says what is wrong
				continue
			}
			if spec.Exec.Path == "" {
				return fmt.Errorf("%s: %s: %q holds a function of neither a container nor exec, which kustomize leaves out in silence; take it out", l.file, l.field, firstLine(l.entry))
			}
			if !t.exec {
				return fmt.Errorf("%s: %s: %q holds an exec function (%s), which kustomize leaves out in silence without --enable-exec; give that flag, or take the function out",
					l.file, l.field, firstLine(l.entry), spec.Exec.Path)
			}
		}
	}
	return nil
}

// configsOf are the objects that an entry names: those of a text, of a file, or of the files in a folder.
func (t *tree) configsOf(l listed) (items []*yaml.RNode) {
	if strings.Contains(l.entry, "\n") {
		return parse([]byte(l.entry))
	}
	path := filepath.Join(filepath.Dir(l.file), l.entry)
	for file, text := range t.configs {
		if file == path || strings.HasPrefix(file, path+string(filepath.Separator)) {
			items = append(items, parse(text)...)
		}
	}
	return items
}

// parse reads what kustomize has read before.
func parse(text []byte) []*yaml.RNode {
	items, err := (&kio.ByteReader{Reader: bytes.NewReader(text), OmitReaderAnnotations: true}).Read()
	if err != nil {
		return nil
	}
	return items
}
