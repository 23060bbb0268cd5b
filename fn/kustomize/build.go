// Package kustomize builds a kustomization in this process and leaves out the one transformer that the caller applies
// itself: the function of meshless. kustomize would hand every object to it as text, twice, and read each back, which
// takes more time than the render. The text is what `kustomize build` prints with the function as a transformer.
//
// Nothing is left out in silence: a function that kustomize would skip, and a MutualTLS elsewhere than last in the
// transformers of the outermost kustomization, are errors.
package kustomize

import (
	"errors"
	"fmt"
	"path/filepath"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// Reader reads an entry of `transformers:` in a folder, which is a file, a folder with a kustomization, or YAML. It
// returns nothing for what is not there: kustomize will report it, or fetch it.
type Reader func(folder, entry string) ([]*yaml.RNode, error)

// Build is what kustomize made of a kustomization without the function.
type Build struct {
	Config    *yaml.RNode // the function's config
	Namespace string      // that the outermost kustomization sets on every object, or ""

	objects    resmap.ResMap
	places     map[string]int // of the objects, by key
	finish     finish
	configFile string // as kustomize says where the config comes from
}

// Run builds a folder or a URL as `kustomize build` does with these options.
func Run(fs filesys.FileSystem, dir string, o *krusty.Options, read Reader) (*Build, error) {
	b := &Build{}
	t := newTree(fs, o)
	t.edit = func(folder string, k content) (err error) {
		b.configFile, err = b.take(fs, folder, k, o.LoadRestrictions, read)
		if err == nil || errors.Is(err, ErrNoTransformer) { // it may stand elsewhere, which is told then
			b.finish, err = takeFinish(k, o)
		}
		return err
	}
	options := *o
	options.AddManagedbyLabel, options.Reorder = false, krusty.ReorderOptionNone // both come behind the function
	objects, err := krusty.MakeKustomizer(&options).Run(t, dir)
	if t.failed != nil {
		return nil, fmt.Errorf("%s: %w", t.root, t.failed)
	}
	if misplaced := t.misplaced(); misplaced != nil {
		return nil, misplaced
	}
	if err != nil {
		return nil, fmt.Errorf("kustomize build: %w", err)
	}
	if b.Config == nil {
		return nil, fmt.Errorf("%s: %w", t.root, ErrNoTransformer)
	}
	b.objects = objects
	return b, nil
}

// Guard returns a file system for a build by others. The check tells afterwards that the build left out a function, or
// met a MutualTLS where it should not stand.
func Guard(fs filesys.FileSystem, o *krusty.Options) (guarded filesys.FileSystem, check func() error) {
	t := newTree(fs, o)
	return t, t.misplaced
}

// take takes the function out of the outermost kustomization, and returns the entry that named it.
func (b *Build) take(fs filesys.FileSystem, folder string, k content, restrictions types.LoadRestrictions, read Reader) (string, error) {
	if k.text("kind") == types.ComponentKind {
		return "", ErrComponent
	}
	transformers := k.list("transformers")
	at, config, err := Find(transformers, func(entry string) ([]*yaml.RNode, error) { return read(folder, entry) })
	if err != nil {
		return "", err
	}
	entry := transformers[at]
	if err := restrict(fs, folder, entry, restrictions); err != nil {
		return "", err
	}
	if validators := k.list("validators"); len(validators) > 0 {
		return "", fmt.Errorf("validators: %q would see the manifests before the function has changed them, and not behind it as in `kustomize build`; "+
			"take it out here and run it on what this command prints, or run `kustomize build --enable-alpha-plugins --enable-exec`", firstLine(validators[0]))
	}
	b.Config, b.Namespace = config, k.text("namespace")
	k.setList("transformers", transformers[:at])
	return entry, nil
}

// restrict refuses a file that kustomize would not load.
func restrict(fs filesys.FileSystem, folder, entry string, restrictions types.LoadRestrictions) error {
	file := filepath.Join(folder, entry)
	if restrictions != types.LoadRestrictionsRootOnly || !fs.Exists(file) || fs.IsDir(file) {
		return nil
	}
	dir, _, err := fs.CleanedAbs(file)
	if err != nil {
		return err
	}
	root, _, err := fs.CleanedAbs(folder)
	if err == nil && !dir.HasPrefix(root) {
		err = fmt.Errorf("transformers: %q is not in or below %q, so kustomize would not load it; move it, or give --load-restrictor LoadRestrictionsNone", entry, root)
	}
	return err
}

// Items are the objects, for the caller to edit. Those that plain does not name are as kustomize hands them to a
// function, with their keys sorted and without comments: what is written of such an object into a text depends on that.
func (b *Build) Items(plain func(*yaml.RNode) bool) ([]*yaml.RNode, error) {
	b.places = map[string]int{}
	var items []*yaml.RNode
	for i, object := range b.objects.Resources() {
		// as the marks come and go that kustomize puts on each object for a function
		if err := object.SetAnnotations(object.GetAnnotations()); err != nil {
			return nil, err
		}
		b.places[key(object)] = i
		if plain(&object.RNode) {
			items = append(items, &object.RNode)
			continue
		}
		text, err := textOf(object)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", object.CurId(), err)
		}
		item, err := yaml.Parse(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", object.CurId(), err)
		}
		items = append(items, item)
	}
	return items, nil
}

// Replace brings the objects to what the function made of Items: an object that is there already keeps its place, a new
// one comes last, and one that the function left out goes. Then comes what kustomize does behind its transformers. The
// result can be printed with Text.
func (b *Build) Replace(items []*yaml.RNode) (resmap.ResMap, error) {
	nodes := make([]*yaml.RNode, b.objects.Size())
	for _, item := range items {
		object := &resource.Resource{RNode: *item}
		if err := object.SetAnnotations(object.GetAnnotations()); err != nil {
			return nil, err
		}
		if i, ok := b.places[key(object)]; ok {
			nodes[i] = &object.RNode
		} else {
			nodes = append(nodes, &object.RNode)
		}
	}
	if err := b.objects.ApplyFilter(nodesFilter(nodes)); err != nil {
		return nil, err
	}
	return b.objects, b.finish.run(b)
}

// key is equal for objects that kustomize takes for the same.
func key(object *resource.Resource) string {
	id := object.CurId()
	return id.Gvk.String() + "|" + id.EffectiveNamespace() + "|" + id.Name
}

// nodesFilter replaces all nodes by these.
type nodesFilter []*yaml.RNode

// Filter implements kio.Filter.
func (f nodesFilter) Filter([]*yaml.RNode) ([]*yaml.RNode, error) {
	var present []*yaml.RNode
	for _, n := range f {
		if n != nil {
			present = append(present, n)
		}
	}
	return present, nil
}

// ErrNoTransformer says that a kustomization does not list the function.
var ErrNoTransformer = errors.New("lists no MutualTLS in its transformers; add the file that holds it (here, in the outermost overlay, not in a base or a Component)")

// ErrComponent says that the function does not belong into a Component.
var ErrComponent = errors.New("is a Component, which sees names before the overlay sets prefix and namespace; list the MutualTLS in the transformers of the outermost overlay, and issue there")
