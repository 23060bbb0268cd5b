package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"

	"sigs.k8s.io/kustomize/kyaml/kio/kioutil"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// issueStream makes the certificates of a stream of manifests, and stores them in the folder of --state.
func (p *program) issueStream(source string, o issueOptions) error {
	items, config, err := p.readIssued(source, o)
	if err != nil {
		return err
	}
	if o.ca != "" && managed(config) {
		return errManagedCA
	}
	kinds := manifest.Kinds{}
	if loaded, err := v1alpha1.Load(config); err == nil { // what is wrong with it, the render says
		kinds = manifest.KindsOf(loaded.Spec)
	}
	if err := setNamespace(items, kinds, o.namespace); err != nil {
		return err
	}
	if _, err := os.Stat(o.state); err == nil && !isFolder(o.state) {
		return fmt.Errorf("--state: %s is no folder, and certificates are stored in one", o.state)
	}
	return alone(o.state, func() error { return p.issueItems(source, items, config, o) })
}

// issueItems makes the certificates of the items of a stream.
func (p *program) issueItems(source string, items []*yaml.RNode, config *yaml.RNode, o issueOptions) error {
	state, err := readStateFiles(o.state)
	if err != nil {
		return err
	}
	before, err := fileNames(state)
	if err != nil {
		return err
	}
	if err := movePaths(state, ".", pipeline.StateFolder); err != nil {
		return err
	}
	ca, rendered, err := p.renderWith(source, o.state, append(items, state...), config, o)
	if err != nil {
		return err
	}
	after := slices.DeleteFunc(rendered, func(item *yaml.RNode) bool { return !isState(item) })
	if len(after)+len(state) == 0 && managed(config) {
		fmt.Fprintln(p.err, "cert-manager issues the certificates: there is nothing to store, `meshless render` renders the whole without --state")
		return nil
	}
	if _, err := os.Stat(filepath.Join(o.state, path.Base(stateListFile))); err == nil { // a kustomization lists the folder
		if after, err = withTripwire(after); err != nil {
			return err
		}
		list, err := stateKustomization(after)
		if err != nil {
			return err
		}
		before = append(before, path.Base(stateListFile))
		after = append(after, list)
	}
	if err := movePaths(after, pipeline.StateFolder, "."); err != nil {
		return err
	}
	return p.store(ca, o.state, before, after, o)
}

// readIssued reads the stream, or what the build prints, and its config.
func (p *program) readIssued(source string, o issueOptions) (items []*yaml.RNode, config *yaml.RNode, err error) {
	documents, run, err := p.readStream(source, o)
	if err != nil {
		return nil, nil, err
	}
	items = itemsOf(documents)
	handed, err := takeHandOver(items, run)
	if err != nil {
		return nil, nil, err
	}
	if handed != nil { // by `meshless render`, which set the namespace
		if o.config != "" || yaml.IsMissingOrNull(handed.config) {
			config, err = takeConfig(nil, o.config)
		} else {
			config = handed.config
		}
		if err == nil && handed.config != nil && !sameConfig(config, handed.config) {
			err = errors.New("--build: renders with another config than --config names; give both the same")
		}
		return withoutState(handed.items), config, err
	}
	for _, item := range items {
		if isOurs(item) {
			return nil, nil, fmt.Errorf("%s: holds %s of an earlier render; give what comes before that, since --state has the certificates", source, report.ObjectOf(item))
		}
	}
	config, err = takeConfig(documents, o.config)
	return items, config, err
}

// readStream reads the documents of the stream; where a build prints them, run is the one to which it hands over.
func (p *program) readStream(source string, o issueOptions) (documents []*document, run string, err error) {
	if o.build == "" {
		documents, err = p.openDocuments(source, "issue")
		return documents, "", err
	}
	output, run, err := p.runBuild(o.build)
	if err == nil {
		documents, err = manifestsOf(bytes.NewReader(output), "--build")
	}
	return documents, run, err
}

// readStateFiles reads what issue stored in a folder, the CertificateAuthority among it.
func readStateFiles(folder string) ([]*yaml.RNode, error) {
	items, err := readFolderBut(folder, path.Base(stateListFile))
	if err != nil {
		return nil, fmt.Errorf("--state: %w", err)
	}
	for _, item := range items {
		if !isState(item) && !manifest.IsTripwire(item) {
			return nil, fmt.Errorf("--state: %s holds a %s %s, which is no state of meshless; give a folder for the certificates alone", filepath.Join(folder, pathOf(item)), item.GetKind(), item.GetName())
		}
	}
	return items, nil
}

// movePaths moves the files that items name from one folder to another, "." being where all of them are.
func movePaths(items []*yaml.RNode, from, to string) error {
	for _, item := range items {
		file, err := filepath.Rel(from, pathOf(item))
		if err != nil {
			return err
		}
		for _, annotation := range []string{kioutil.PathAnnotation, legacyPathAnnotation} {
			if err := item.PipeE(yaml.SetAnnotation(annotation, path.Join(to, filepath.ToSlash(file)))); err != nil {
				return err
			}
		}
	}
	return nil
}

// isOurs tells whether an item is what an earlier render made.
func isOurs(item *yaml.RNode) bool {
	return item.GetKind() == v1alpha1.KindCertificateAuthority || item.GetAnnotations()[api.IdentityAnnotation] != ""
}

func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}
