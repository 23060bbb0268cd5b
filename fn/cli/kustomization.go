package cli

import (
	"cmp"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	kbuild "sigs.k8s.io/kustomize/kustomize/v5/commands/build"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/kio/kioutil"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/kustomize"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/internal/api"
)

// kustomization is an overlay that runs the function as a transformer.
type kustomization struct {
	folder, file string
	text         []byte        // the kustomization without the function and without its state
	config       *yaml.RNode   // the function's config
	namespace    string        // that it sets on every object, or ""
	listsState   bool          // its resources list the state folder
	stateList    []*yaml.RNode // what else is in the state folder: the tripwire, and further kustomizations, which do not belong there
	listText     []byte        // the state folder's own kustomization as it stands; nil when there is none
}

// kustomizationFile is the name of the kustomization file of a folder, or "".
func kustomizationFile(folder string) string {
	for _, name := range konfig.RecognizedKustomizationFileNames() {
		if info, err := os.Stat(filepath.Join(folder, name)); err == nil && info.Mode().IsRegular() {
			return name
		}
	}
	return ""
}

// isKustomizationName tells whether a file of that name is a kustomization.
func isKustomizationName(file string) bool {
	return slices.Contains(konfig.RecognizedKustomizationFileNames(), path.Base(file))
}

// openKustomization finds the function's config among the transformers, and takes it and the state folder out: what is
// left builds the items that kustomize would hand to the function, but for the state, whose files are read as they are.
func openKustomization(folder, file string) (*kustomization, error) {
	absolute, err := filepath.Abs(folder)
	if err == nil {
		absolute, err = filepath.EvalSymlinks(absolute) // as kustomize's loader does
	}
	if err != nil {
		return nil, err
	}
	k := &kustomization{folder: absolute, file: file}
	name := filepath.Join(folder, file)
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	content, err := yaml.Parse(string(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := k.takeOut(content.YNode()); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	text, err := content.String()
	k.text = []byte(text)
	return k, err
}

// keepsApart refuses state of a namespace that is not the kustomization's own, as that of a declared workload can be:
// kustomize would set its own on it.
func (k *kustomization) keepsApart(state []*yaml.RNode) error {
	for _, item := range state {
		if namespace := manifest.NamespaceOf(item); k.namespace != "" && namespace != k.namespace && !manifest.IsLocalConfig(item) {
			return fmt.Errorf("%s: namespace: moves every object into %q, and so the certificate of %s, which is of %q. "+
				"Take it out here, and let a kustomization below or the manifests name the namespace of each; or declare the workload in %q; nothing was written",
				k.file, k.namespace, item.GetAnnotations()[api.IdentityAnnotation], namespace, k.namespace)
		}
	}
	return nil
}

func (k *kustomization) takeOut(content *yaml.Node) error {
	if node.Scalar(content, "kind") == types.ComponentKind {
		return kustomize.ErrComponent
	}
	k.namespace = node.Scalar(content, "namespace")
	if resources := node.Get(content, "resources"); resources != nil {
		resources.Content = slices.DeleteFunc(resources.Content, func(entry *yaml.Node) bool {
			ours := path.Clean(entry.Value) == pipeline.StateFolder
			k.listsState = k.listsState || ours
			return ours
		})
	}
	transformers := node.Get(content, "transformers")
	if transformers == nil {
		return kustomize.ErrNoTransformer
	}
	var entries []string
	for _, entry := range transformers.Content {
		entries = append(entries, entry.Value)
	}
	at, config, err := kustomize.Find(entries, func(entry string) ([]*yaml.RNode, error) { return readTransformer(k.folder, entry) })
	if err != nil {
		return err
	}
	k.config = config
	transformers.Content = slices.Delete(transformers.Content, at, at+1)
	node.Drop(content, "sortOptions") // of no matter for state
	sayOrigins(content)
	if len(transformers.Content) == 0 {
		node.Drop(content, "transformers")
	}
	return nil
}

// sayOrigins has kustomize note on each object which file it comes from, so that findings name it. Nothing of the build
// is stored but state, whose files are read.
func sayOrigins(content *yaml.Node) {
	metadata := node.Sequence(content, "buildMetadata")
	if !slices.ContainsFunc(metadata.Content, func(n *yaml.Node) bool { return n.Value == types.OriginAnnotations }) {
		metadata.Content = append(metadata.Content, node.Text(types.OriginAnnotations))
	}
}

// readTransformer is a kustomize.Reader.
func readTransformer(folder, entry string) ([]*yaml.RNode, error) {
	file := filepath.Join(folder, entry)
	if strings.Contains(entry, "\n") {
		items, err := fromBytes([]byte(entry))
		if err != nil {
			return nil, unquoted(err)
		}
		return items, nil
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, nil // a URL, or a mistake that kustomize will report
	}
	if info.IsDir() {
		built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), file)
		if err != nil {
			return nil, err
		}
		return built.ToRNodeSlice(), nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	items, err := fromBytes(data)
	if err != nil {
		return nil, unquoted(err)
	}
	numberDocuments(items, documentStarts(data))
	return items, placeIn(items, entry)
}

// placeIn notes the file of items, as a reader of folders does, so that findings name it.
func placeIn(items []*yaml.RNode, file string) error {
	for _, item := range items {
		if item.YNode().Kind != yaml.MappingNode {
			continue
		}
		if err := item.PipeE(yaml.SetAnnotation(kioutil.PathAnnotation, path.Clean(file))); err != nil {
			return err
		}
	}
	return nil
}

// build runs kustomize on what is left of the kustomization.
func (k *kustomization) build(o issueOptions) ([]*yaml.RNode, error) {
	options := kbuild.HonorKustomizeFlags(krusty.MakeDefaultOptions(), o.kustomize)
	options.Reorder, options.AddManagedbyLabel = krusty.ReorderOptionNone, false // for who is rendered, they say nothing
	fs, check := kustomize.Guard(replacedFile{FileSystem: filesys.MakeFsOnDisk(), path: filepath.Join(k.folder, k.file), text: k.text}, options)
	built, err := krusty.MakeKustomizer(options).Run(fs, k.folder)
	if misplaced := check(); misplaced != nil {
		return nil, misplaced
	}
	if err != nil {
		return nil, fmt.Errorf("kustomize build: %w", err)
	}
	return built.ToRNodeSlice(), nil
}

// stateListFile is the state folder's own kustomization.
var stateListFile = path.Join(pipeline.StateFolder, konfig.DefaultKustomizationFileName())

// readState reads the state folder. Its kustomization is kept apart, since it is written anew.
func (k *kustomization) readState() ([]*yaml.RNode, error) {
	folder := filepath.Join(k.folder, pipeline.StateFolder)
	if _, err := os.Stat(folder); os.IsNotExist(err) {
		return nil, nil
	}
	list, err := os.ReadFile(filepath.Join(k.folder, stateListFile))
	if err == nil {
		k.listText = list
	}
	// it is derived: what a merge made of it does not matter
	items, err := readFolderBut(folder, konfig.DefaultKustomizationFileName())
	if err != nil {
		return nil, err
	}
	var state []*yaml.RNode
	for _, item := range items {
		file := path.Join(pipeline.StateFolder, pathOf(item))
		for _, annotation := range []string{kioutil.PathAnnotation, legacyPathAnnotation} {
			if err := item.PipeE(yaml.SetAnnotation(annotation, file)); err != nil {
				return nil, err
			}
		}
		switch {
		case isState(item):
			state = append(state, item)
		case isKustomizationName(file), manifest.IsTripwire(item): // written anew
			k.stateList = append(k.stateList, item)
		default:
			return nil, fmt.Errorf("%s: holds a %s, which is no state of meshless; the folder %s is written by `meshless issue`, so move the object elsewhere",
				filepath.Join(k.folder, file), cmp.Or(item.GetKind(), "document without a kind"), pipeline.StateFolder)
		}
	}
	return state, nil
}

// contents are the texts of the files of the state folder as they stand.
func (k *kustomization) contents(state []*yaml.RNode) (map[string][]byte, error) {
	texts, err := fileContents(append(state, k.stateList...))
	if err == nil && k.listText != nil {
		texts[stateListFile] = k.listText
	}
	return texts, err
}

// stateKustomization lists the state for kustomize. The CertificateAuthority is left out: only issuing needs it.
func stateKustomization(state []*yaml.RNode) (*yaml.RNode, error) {
	var files []string
	for _, item := range state {
		if item.GetKind() != v1alpha1.KindCertificateAuthority {
			file, err := filepath.Rel(pipeline.StateFolder, pathOf(item))
			if err != nil {
				return nil, err
			}
			files = append(files, filepath.ToSlash(file))
		}
	}
	slices.Sort(files)
	list := yaml.NewRNode(node.Object(
		"apiVersion", types.KustomizationVersion, "kind", types.KustomizationKind,
		"metadata", node.Object("name", pipeline.StateFolder, "annotations", node.Object(
			"config.kubernetes.io/local-config", "true", kioutil.PathAnnotation, stateListFile, kioutil.IndexAnnotation, "0")),
		"resources", slices.Compact(files),
	))
	list.YNode().HeadComment = "# Written by `meshless issue`."
	return list, nil
}

// replacedFile is a file system in which one file reads differently.
type replacedFile struct {
	filesys.FileSystem
	path string
	text []byte
}

func (r replacedFile) ReadFile(path string) ([]byte, error) {
	if path == r.path {
		return r.text, nil
	}
	return r.FileSystem.ReadFile(path)
}
