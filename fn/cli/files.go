package cli

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
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
	"github.com/meshless-dev/meshless/fn/rewrite"
)

// legacyPathAnnotation is what kyaml's reader still writes beside kioutil.PathAnnotation.
const legacyPathAnnotation = "config.kubernetes.io/path"

// readFolder reads every manifest below a folder; each item says in annotations which file it came from.
func readFolder(folder string) ([]*yaml.RNode, error) { return readFolderBut(folder, "") }

// readFolderBut is readFolder without one file, named from the folder.
func readFolderBut(folder, skip string) ([]*yaml.RNode, error) {
	conflict, starts, aliased := "", map[string][]int{}, map[string][]byte{}
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
			if bytes.Contains(text, []byte("*")) && bytes.Contains(text, []byte("&")) {
				aliased[filepath.ToSlash(name)] = text
			}
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
	if err := withoutAliases(items, aliased); err != nil {
		return nil, fmt.Errorf("reading %s: %w", folder, err)
	}
	numberLines(items, starts)
	return items, nil
}

// withoutAliases reads items with aliases again, by the texts of their files, and writes the aliases out: what the
// reader notes in metadata.annotations shows wherever an alias names that mapping.
func withoutAliases(items []*yaml.RNode, texts map[string][]byte) error {
	values := map[string][]*yaml.Node{}
	for _, item := range items {
		name, text, err := kioutil.GetFileAnnotations(item)
		if err != nil || !node.HasAlias(item.YNode()) {
			continue
		}
		if values[name] == nil {
			values[name] = rewrite.Split(texts[name]).Values()
		}
		index, err := strconv.Atoi(text)
		if err != nil || index >= len(values[name]) || node.CheckAliases(values[name][index]) != nil {
			continue // the render refuses it
		}
		fresh, noted := yaml.NewRNode(values[name][index]), item.GetAnnotations()
		if err := fresh.DeAnchor(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, key := range readerAnnotations {
			if value, there := noted[key]; there {
				if err := fresh.PipeE(yaml.SetAnnotation(key, value)); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
		}
		item.SetYNode(fresh.YNode())
	}
	return nil
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

// writeChanges brings the files of a folder, of which fileNames names those that were read, to the given items. Of a
// file it changes the documents whose items differ, and in them what differs; a file whose last item is gone is
// removed. All texts are written beside their files before the first is replaced, so a full disk or a bad path changes
// nothing. It returns the names of the files that it changed.
func writeChanges(folder string, read []string, after []*yaml.RNode) ([]string, error) {
	byFile, err := itemsByFile(after)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(folder) // a symbolic link in the package must not lead the writing out of it
	if err != nil {
		return nil, err
	}
	defer root.Close()
	texts := map[string][]byte{}
	for name, items := range byFile {
		was, err := root.ReadFile(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, unwritable(root, name, err)
		}
		text, err := fileText(was, items)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(folder, name), err)
		}
		if !bytes.Equal(was, text) {
			texts[name] = text
		}
	}
	changed, err := replaceFiles(root, texts)
	if err != nil {
		return changed, err
	}
	for _, name := range read {
		if _, kept := byFile[name]; kept {
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
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if staged[name], err = stage(root, name, texts[name]); err != nil {
			return nil, unwritable(root, name, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(staged)) {
		if err := root.Rename(staged[name], name); err != nil {
			return replaced, unwritable(root, name, err)
		}
		replaced = append(replaced, name)
	}
	return replaced, nil
}

// unwritable says which file cannot be written, and not which step of writing it beside failed.
func unwritable(root *os.Root, name string, err error) error {
	path, link := (*fs.PathError)(nil), (*os.LinkError)(nil)
	if errors.As(err, &path) {
		err = path.Err
	} else if errors.As(err, &link) {
		err = link.Err
	}
	return fmt.Errorf("%s: cannot be written: %w", filepath.Join(root.Name(), name), err)
}

// fileNames are the files that the items' annotations name, in order.
func fileNames(items []*yaml.RNode) ([]string, error) {
	byFile, err := itemsByFile(items)
	return slices.Sorted(maps.Keys(byFile)), err
}

// itemsByFile are the items of each file that their annotations name.
func itemsByFile(items []*yaml.RNode) (map[string][]*yaml.RNode, error) {
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
	return byFile, nil
}

// fileText is the text of a file that holds the items; those that it held say in an annotation which of them they are.
func fileText(was []byte, items []*yaml.RNode) ([]byte, error) {
	file := rewrite.Split(was)
	values := file.Values()
	there, further := map[int]*yaml.Node{}, []*yaml.Node(nil)
	for _, item := range items {
		_, text, err := kioutil.GetFileAnnotations(item)
		if err != nil {
			return nil, err
		}
		index, err := strconv.Atoi(text)
		if err != nil || index < 0 || index >= len(values) || there[index] != nil {
			further = append(further, withoutReaderAnnotations(item, nil))
		} else {
			there[index] = withoutReaderAnnotations(item, values[index])
		}
	}
	return file.Rewrite(there, further)
}

// readerAnnotations are what kyaml's reader notes on items.
//
//lint:ignore SA1019 the reader writes them still
var readerAnnotations = []string{kioutil.PathAnnotation, kioutil.LegacyPathAnnotation, kioutil.IndexAnnotation, kioutil.LegacyIndexAnnotation, kioutil.SeqIndentAnnotation}

// withoutReaderAnnotations is a copy of an item as its file is to hold it: with those annotations of the reader alone
// that the file holds already, and with what the file has in the place of annotations, which may be null.
func withoutReaderAnnotations(item *yaml.RNode, was *yaml.Node) *yaml.Node {
	n := yaml.CopyYNode(item.YNode())
	metadata, annotations := node.Get(n, "metadata"), node.Get(n, "metadata", "annotations")
	for _, key := range readerAnnotations {
		if old := node.Get(was, "metadata", "annotations", key); old != nil {
			node.Set(annotations, key, old)
		} else {
			node.Drop(annotations, key)
		}
	}
	leaveEmpty(metadata, "annotations", node.Get(was, "metadata"))
	leaveEmpty(n, "metadata", was)
	if list := node.Get(n, yaml.BareSeqNodeWrappingKey); list != nil {
		return list
	}
	return n
}

// leaveEmpty gives a key whose value holds nothing the value that it had, or takes it out.
func leaveEmpty(mapping *yaml.Node, key string, was *yaml.Node) {
	if value := node.Get(mapping, key); value == nil || value.Kind != yaml.MappingNode || len(value.Content) > 0 {
		return
	}
	if old := node.Get(was, key); old != nil {
		node.Set(mapping, key, old)
	} else {
		node.Drop(mapping, key)
	}
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
