package cli

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/kio/kioutil"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// legacyPathAnnotation is what kyaml's reader still writes beside kioutil.PathAnnotation.
const legacyPathAnnotation = "config.kubernetes.io/path"

// readFolder reads every manifest below a folder; each item says in annotations which file it came from.
func readFolder(folder string) ([]*yaml.RNode, error) {
	items, err := kio.LocalPackageReader{
		PackagePath: folder, MatchFilesGlob: append([]string{"Kptfile"}, kio.DefaultMatch...), PreserveSeqIndent: true, WrapBareSeqNode: true,
	}.Read()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", folder, err)
	}
	return items, nil
}

// writeChanges brings the files of a folder from one list of items to another. Files whose items did not change are not touched, a file whose last item is gone is
// removed, and each file is replaced whole or not at all. It returns the names of the files that it changed.
func writeChanges(folder string, before, after []*yaml.RNode) ([]string, error) {
	old, err := fileContents(before)
	if err != nil {
		return nil, err
	}
	now, err := fileContents(after)
	if err != nil {
		return nil, err
	}
	var changed []string
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if bytes.Equal(old[name], now[name]) {
			continue
		}
		if err := replaceFile(filepath.Join(folder, name), now[name]); err != nil {
			return changed, err
		}
		changed = append(changed, name)
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		if _, kept := now[name]; kept {
			continue
		}
		if err := os.Remove(filepath.Join(folder, name)); err != nil {
			return changed, err
		}
		changed = append(changed, name+" (removed)")
	}
	return changed, nil
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
		err := kio.ByteWriter{Writer: &text, ClearAnnotations: []string{kioutil.PathAnnotation, legacyPathAnnotation}}.Write(items)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		contents[name] = text.Bytes()
	}
	return contents, nil
}

func fileIndex(item *yaml.RNode) int {
	_, text, err := kioutil.GetFileAnnotations(item)
	if err != nil {
		return 0
	}
	index, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return index
}

// replaceFile writes beside the file and renames, so that a crash leaves the old text or the new one.
func replaceFile(path string, text []byte) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temporary, err := os.CreateTemp(filepath.Dir(path), ".meshless-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temporary.Name()))
		}
	}()
	_, writeErr := temporary.Write(text)
	if err := errors.Join(writeErr, temporary.Chmod(0o644), temporary.Sync(), temporary.Close()); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), path)
}
