package cli

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/kio/kioutil"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
)

// legacyPathAnnotation is what kyaml's reader still writes beside kioutil.PathAnnotation.
const legacyPathAnnotation = "config.kubernetes.io/path"

// readFolder reads every manifest below a folder; each item says in annotations which file it came from.
func readFolder(folder string) ([]*yaml.RNode, error) { return readFolderBut(folder, "") }

// readFolderBut is readFolder without one file, named from the folder.
func readFolderBut(folder, skip string) ([]*yaml.RNode, error) {
	conflict, starts := "", map[string][]int{}
	var outside error
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", folder, err)
	}
	defer root.Close()
	items, err := kio.LocalPackageReader{
		PackagePath: folder, MatchFilesGlob: append([]string{"Kptfile"}, kio.DefaultMatch...), PreserveSeqIndent: true, WrapBareSeqNode: true,
		FileSkipFunc: func(name string) bool {
			if name == skip {
				return true
			}
			text, err := root.ReadFile(name)
			if err != nil {
				// most often a symbolic link out of the folder: what it names may be a secret of this machine
				outside = fmt.Errorf("%w; a symbolic link must not lead out of it", err)
				return true
			}
			if hasConflict(text) && conflict == "" {
				conflict = filepath.Join(folder, name)
			}
			if err := node.CheckText(text); err != nil && outside == nil {
				outside = fmt.Errorf("%s: %w", name, err)
			}
			starts[filepath.ToSlash(name)] = documentStarts(text)
			return false
		},
	}.Read()
	if conflict != "" {
		return nil, conflictError(conflict)
	}
	if outside != nil {
		return nil, fmt.Errorf("reading %s: %w", folder, outside)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", folder, unquoted(err))
	}
	numberLines(items, starts)
	return items, nil
}

// fromBytes reads manifests as they stand: kio.FromBytes writes YAML aliases out, so a kilobyte can take all memory.
func fromBytes(text []byte) ([]*yaml.RNode, error) {
	items, err := (&kio.ByteReader{Reader: bytes.NewReader(text), OmitReaderAnnotations: true}).Read()
	if err != nil {
		return nil, err
	}
	for _, item := range items {
		if err := node.CheckItem(item); err != nil {
			return nil, err
		}
	}
	return items, nil
}

// unquoted is an error of kyaml's reader without the content of the file, which may be a key.
func unquoted(err error) error {
	if text, _, quotes := strings.Cut(err.Error(), "node contents:"); quotes {
		return errors.New(strings.TrimRight(text, ": "))
	}
	return err
}

// writeChanges brings the files of a folder from what fileContents said of them before to the given items. Files whose
// items did not change are not touched, a file whose last item is gone is removed. All texts are written beside their
// files before the first is replaced, so a full disk or a bad path changes nothing. It returns the names of the files
// that it changed.
func writeChanges(folder string, old map[string][]byte, after []*yaml.RNode) ([]string, error) {
	now, err := fileContents(after)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(folder) // a symbolic link in the package must not lead the writing out of it
	if err != nil {
		return nil, err
	}
	defer root.Close()
	texts := maps.Clone(now)
	maps.DeleteFunc(texts, func(name string, text []byte) bool { return bytes.Equal(old[name], text) })
	changed, err := replaceFiles(root, texts)
	if err != nil {
		return changed, err
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		if _, kept := now[name]; kept {
			continue
		}
		if err := root.Remove(name); err != nil {
			return changed, err
		}
		changed = append(changed, name+" (removed)")
	}
	return changed, nil
}

// replaceFiles writes files: everything is on the disk before anything is replaced. It returns the names of those that
// it replaced.
func replaceFiles(root *os.Root, texts map[string][]byte) (replaced []string, err error) {
	staged := map[string]string{} // temporary names by final ones
	defer func() {
		for _, temporary := range staged {
			_ = root.Remove(temporary) // what was renamed is not there any more
		}
	}()
	for name, text := range texts {
		if staged[name], err = stage(root, name, text); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(staged)) {
		if err := root.Rename(staged[name], name); err != nil {
			return replaced, err
		}
		replaced = append(replaced, name)
	}
	return replaced, nil
}

// fileContents are the texts of the files that the items' annotations name.
func fileContents(items []*yaml.RNode) (map[string][]byte, error) {
	byFile := map[string][]*yaml.RNode{}
	for _, item := range items {
		name, _, err := kioutil.GetFileAnnotations(item)
		if err != nil {
			return nil, err
		}
		if name == "" || !filepath.IsLocal(name) {
			return nil, fmt.Errorf("%s %s: the annotation %s is %q, which is no file inside the folder", item.GetKind(), item.GetName(), kioutil.PathAnnotation, name)
		}
		byFile[filepath.Clean(name)] = append(byFile[filepath.Clean(name)], item)
	}
	contents := map[string][]byte{}
	for name, items := range byFile {
		slices.SortStableFunc(items, func(a, b *yaml.RNode) int { return fileIndex(a) - fileIndex(b) })
		var text bytes.Buffer
		for i, item := range items { // one by one, since the writer copies everything that it is given
			if i > 0 {
				text.WriteString("---\n")
			}
			err := kio.ByteWriter{Writer: &text, ClearAnnotations: []string{kioutil.PathAnnotation, legacyPathAnnotation}}.Write([]*yaml.RNode{item})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		contents[name] = text.Bytes()
	}
	return contents, nil
}

func fileIndex(item *yaml.RNode) int {
	_, text, _ := kioutil.GetFileAnnotations(item)
	index, _ := strconv.Atoi(text) // the order alone depends on it
	return index
}

// stage writes a text beside the file that it will replace and returns the temporary name, also of what an error left
// behind.
func stage(root *os.Root, name string, text []byte) (string, error) {
	temporary := filepath.Join(filepath.Dir(name), ".meshless-"+rand.Text())
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return temporary, err
	}
	f, err := root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return temporary, err
	}
	_, err = f.Write(text)
	return temporary, errors.Join(err, f.Sync(), f.Close())
}
