package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/kio/kioutil"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/issue"
	"github.com/meshless-dev/meshless/fn/pipeline"
)

// sharedCA is a CertificateAuthority in a file of its own, which several packages share. The nil sharedCA is none: the
// package has its own in its state.
type sharedCA struct {
	path string
	raw  []byte // the file as it was read; nil when there was none
	text []byte // the same as it would be written
	item *yaml.RNode
}

// openSharedCA reads the file of --ca. One that is not there yet is made by the first issue. Folder is the package, of
// which it must not be a part.
func openSharedCA(path, folder string) (*sharedCA, error) {
	if path == "" {
		return nil, nil
	}
	switch inside, err := isInside(path, folder); {
	case err != nil:
		return nil, err
	case inside:
		return nil, fmt.Errorf("--ca: %s lies inside of %s; a CertificateAuthority that packages share lies outside of each of them", path, folder)
	}
	s := &sharedCA{path: path}
	item, raw, err := readAuthorityFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	s.raw, s.item = raw, item
	s.text, err = authorityText(item)
	return s, err
}

// readAuthorityFile reads a file that holds one CertificateAuthority and nothing else.
func readAuthorityFile(path string) (*yaml.RNode, []byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("--ca: %w", err)
	}
	if hasConflict(raw) {
		return nil, nil, conflictError(path)
	}
	items, err := fromBytes(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("--ca: %s: %w", path, unquoted(err))
	}
	if len(items) != 1 || items[0].GetKind() != v1alpha1.KindCertificateAuthority {
		return nil, nil, fmt.Errorf("--ca: %s: does not hold one CertificateAuthority and nothing else", path)
	}
	return items[0], raw, items[0].PipeE(yaml.ClearAnnotation(kioutil.IndexAnnotation))
}

// isInside tells whether a file, which need not be there, lies below a folder.
func isInside(file, folder string) (bool, error) {
	parent, err := realPath(filepath.Dir(file))
	if err != nil {
		return false, fmt.Errorf("--ca: %w", err)
	}
	below, err := realPath(folder)
	if errors.Is(err, os.ErrNotExist) { // it is made with the first certificates
		return false, nil
	}
	if err != nil {
		return false, err
	}
	relative, err := filepath.Rel(below, parent)
	return err == nil && filepath.IsLocal(relative), nil
}

func realPath(path string) (string, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(absolute)
}

func authorityText(item *yaml.RNode) ([]byte, error) {
	var text bytes.Buffer
	clear := []string{kioutil.PathAnnotation, kioutil.IndexAnnotation, legacyPathAnnotation}
	err := kio.ByteWriter{Writer: &text, ClearAnnotations: clear}.Write([]*yaml.RNode{item.Copy()})
	return text.Bytes(), err
}

// addTo puts the CertificateAuthority among the items of a package, which must have none of its own.
func (s *sharedCA) addTo(items []*yaml.RNode) ([]*yaml.RNode, error) {
	if s == nil {
		return items, nil
	}
	if i := slices.IndexFunc(items, isAuthority); i >= 0 {
		return nil, fmt.Errorf("%s: is the CertificateAuthority of this package alone, and --ca names %s. Let the first package bring its own (git mv it there). For a further one delete it, and run with "+
			"--replace-ca once: both CAs are trusted until a new one has replaced them", pathOf(items[i]), s.path)
	}
	if s.item != nil {
		items = append(items, s.item)
	}
	return items, nil
}

// takeFrom takes the CertificateAuthority out of what was rendered.
func (s *sharedCA) takeFrom(rendered []*yaml.RNode) []*yaml.RNode {
	if s == nil {
		return rendered
	}
	if i := slices.IndexFunc(rendered, isAuthority); i >= 0 {
		s.item = rendered[i]
	}
	return slices.DeleteFunc(rendered, isAuthority)
}

// write stores the CertificateAuthority where it changed, before anything of the package: a package that lags behind
// its CertificateAuthority is brought up to date by the next issue. It tells whether it wrote.
func (s *sharedCA) write() (bool, error) {
	if s == nil || s.item == nil {
		return false, nil
	}
	text, err := authorityText(s.item)
	if err != nil || bytes.Equal(text, s.text) {
		return false, err
	}
	switch now, err := os.ReadFile(s.path); {
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return false, fmt.Errorf("--ca: %w", err)
	case !bytes.Equal(now, s.raw):
		return false, fmt.Errorf("--ca: %s was changed meanwhile, by another issue that shares it; nothing was written, so run this one again", s.path)
	}
	root, err := os.OpenRoot(filepath.Dir(s.path))
	if err != nil {
		return false, fmt.Errorf("--ca: %w", err)
	}
	defer root.Close()
	name := filepath.Base(s.path)
	temporary, err := stage(root, name, text)
	defer root.Remove(temporary) // is gone when it was renamed
	if err != nil {
		return false, fmt.Errorf("--ca: %w", err)
	}
	return true, root.Rename(temporary, name)
}

func isAuthority(item *yaml.RNode) bool {
	return item.GetKind() == v1alpha1.KindCertificateAuthority && item.GetApiVersion() == v1alpha1.APIVersion
}

// hasConflict tells whether a text holds the markers that a merge of Git leaves behind.
func hasConflict(text []byte) bool {
	return bytes.HasPrefix(text, []byte("<<<<<<< ")) || bytes.Contains(text, []byte("\n<<<<<<< "))
}

func conflictError(file string) error {
	return fmt.Errorf("%s: holds the conflict markers of a merge. Take one side (git checkout --ours or --theirs, then git add), the same side for ca.yaml and every bundle.yaml, and issue again: "+
		"it mends what does not fit", file)
}

// render is what the flags mean to a render.
func (o issueOptions) render() pipeline.Options {
	return pipeline.Options{Mode: pipeline.Store, Namespace: o.sets, AllowEmpty: o.allowEmpty, Actions: issue.Actions{Revoke: o.revoke, Renew: o.renew, ReplaceCA: o.replaceCA}, SharedCA: o.ca != ""}
}

// nextSteps says in plain words what follows on a run that did something out of the ordinary. When to run it again, the
// findings say.
func (o issueOptions) nextSteps(p *program) {
	switch {
	case len(o.revoke) > 0:
		fmt.Fprintln(p.err, "next: commit, merge and sync this now. Each proxy refuses the key, and closes what was opened with it, within about two minutes of its cluster's sync; no pod restarts")
		if o.ca != "" {
			fmt.Fprintln(p.err, "next: run `meshless issue --ca` for every other package that shares the CA, too: only then their proxies know of it")
		}
	case o.replaceCA && o.ca != "":
		fmt.Fprintln(p.err, "next: run `meshless issue --ca` for every other package that shares the CA, now and after each of the times named above, within a day of it; commit, merge and sync each time")
	case o.replaceCA:
		fmt.Fprintln(p.err, "next: commit, merge and sync this; then run `meshless issue` (a scheduled job will do) at the times named above. Nothing breaks if that is later")
	case len(o.renew) > 0:
		fmt.Fprintln(p.err, "next: commit, merge and sync this. Each pod takes its new key within about two minutes of its cluster's sync, without a restart; the old one stays valid, so revoke it if it leaked")
	}
}
