package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/kio/kioutil"
	"sigs.k8s.io/kustomize/kyaml/openapi"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
)

// renderOptions are the flags of `meshless render`.
type renderOptions struct {
	config, state, namespace string // files; a namespace for objects without one
	failOn, now              string
}

func (p *program) renderCommand() *cobra.Command {
	var o renderOptions
	cmd := &cobra.Command{
		Use:   "render [FILE or -]",
		Short: "Put a stream of manifests into the mesh: of helm template, a Helm post-renderer, cdk8s, jsonnet",
		Long: `Read manifests, put their workloads into the mesh, and print the whole. Documents that nothing changes stay as they are.

  helm template shop ./chart | meshless render --config mtls.yaml --state mtls --namespace prod - | kubectl apply -f -

The config is the file of --config, or a MutualTLS in the stream. State is in the folder of --state, which 'meshless issue'
writes, or in the stream. Certificates are never made here.`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: completeFile,
		RunE: func(_ *cobra.Command, args []string) error { return p.render(sourceOf(args), o) },
	}
	cmd.Flags().StringVar(&o.config, "config", "", "file of the config; without it the stream holds a MutualTLS")
	cmd.Flags().StringVar(&o.state, "state", "", "folder or file with the certificates, as meshless issue writes it; without it they are in the stream")
	cmd.Flags().StringVarP(&o.namespace, "namespace", "n", "", "namespace of objects that name none, as that of a Helm release")
	failOnFlag(cmd, &o.failOn)
	clockFlag(cmd, &o.now)
	return cmd
}

// render prints the meshed stream, or nothing.
func (p *program) render(source string, o renderOptions) error {
	if err := checkFailOn(o.failOn); err != nil {
		return err
	}
	if err := p.setClock(o.now); err != nil {
		return err
	}
	documents, err := p.openDocuments(source, "render")
	if err != nil {
		return err
	}
	config, err := takeConfig(documents, o.config)
	if err != nil {
		return err
	}
	state, err := readStateFolder(o.state)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("--state: %s is not there; `meshless issue --config FILE --state %s -` makes it", o.state, o.state)
	}
	if err != nil {
		return err
	}
	items := append(itemsOf(documents), state...)
	r := reportOn(source)
	if o.config != "" || o.state != "" {
		r.File = "" // not all findings are about one file
	}
	kinds := manifest.Kinds{}
	if loaded, err := v1alpha1.Load(config); err == nil { // what is wrong with it, the render says
		kinds = manifest.KindsOf(loaded.Spec)
	}
	if err := setNamespace(items, kinds, o.namespace); err != nil {
		return err
	}
	if run := handOverTo(); run != "" {
		object, err := handOver{items, config}.object(run)
		if err != nil {
			return err
		}
		return writeDocuments(p.out, nil, []*yaml.RNode{object}, manifest.Kinds{})
	}
	checkHelmGroup(items, r)
	rendered := items
	if !r.Failed() {
		rendered = p.renderItems(items, config, pipeline.Options{Mode: pipeline.Build}, r)
	}
	if !r.Failed() {
		warnEmpty(source, rendered, r)
		warnHooks(rendered, kinds, r)
	}
	if err := p.concludeOn(r, o.failOn, "; nothing was written"); err != nil {
		return err
	}
	return writeDocuments(p.out, documents, slices.DeleteFunc(rendered, isOurConfig), kinds)
}

func (p *program) stripCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "strip [FILE or -]",
		Short: "Take a stream of manifests out of the mesh again",
		Long: `Read manifests, take out what a render put in, and print the rest: proxies, volumes and annotations go, probes and hooks
are the app's again, and Secrets, ConfigMaps and Services of meshless are left out.`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: completeFile,
		RunE: func(_ *cobra.Command, args []string) error { return p.strip(sourceOf(args)) },
	}
}

func (p *program) strip(source string) error {
	documents, err := p.openDocuments(source, "strip")
	if err != nil {
		return err
	}
	items := itemsOf(documents)
	r := reportOn(source)
	left := pipeline.Strip(items, manifest.KindsOf(specIn(items)), r)
	if err := p.concludeOn(r, failOnError, "; nothing was written"); err != nil {
		return err
	}
	return writeDocuments(p.out, documents, left, manifest.Kinds{}) // none is new
}

// openDocuments reads a file or standard input.
func (p *program) openDocuments(source, command string) ([]*document, error) {
	in, name := p.in, "standard input"
	if source != "-" {
		if isFolder(source) {
			if command == "strip" {
				return nil, fmt.Errorf("%[1]s: is a folder; `meshless strip` reads a stream, as `meshless build %[1]s` prints it", source)
			}
			return nil, fmt.Errorf("%[1]s: is a folder; `meshless %[2]s` reads a stream. A kustomization is rendered by `meshless build %[1]s`, a kpt package by `kpt fn render %[1]s`", source, command)
		}
		f, err := os.Open(source)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in, name = io.Reader(f), source
	}
	return manifestsOf(in, name)
}

// manifestsOf reads a stream, which must hold manifests.
func manifestsOf(in io.Reader, name string) ([]*document, error) {
	documents, err := readDocuments(in, name)
	if err != nil {
		return nil, err
	}
	items := itemsOf(documents)
	if len(items) == 0 {
		return nil, fmt.Errorf("%s: holds no manifest; did the command before this one fail?", name)
	}
	for _, item := range items {
		if o := report.ObjectOf(item); o.Kind == kio.ResourceListKind {
			return nil, fmt.Errorf("%s: is a ResourceList, the input of a function; `meshless` without a command is one", name)
		} else if o.Kind == "" || o.APIVersion == "" {
			return nil, fmt.Errorf("%s: line %d: is no manifest, since it lacks kind or apiVersion", name, item.YNode().Line)
		}
	}
	return documents, nil
}

// isOurConfig tells whether an item is for renders alone, and no cluster knows its kind.
func isOurConfig(item *yaml.RNode) bool {
	return manifest.IsTripwire(item) ||
		item.GetApiVersion() == v1alpha1.APIVersion && (item.GetKind() == v1alpha1.KindMutualTLS || item.GetKind() == v1alpha1.KindCertificateAuthority)
}

// takeConfig is the config of a file, or the one in the stream.
func takeConfig(documents []*document, file string) (*yaml.RNode, error) {
	var configs []*yaml.RNode
	for _, item := range itemsOf(documents) {
		if isOurConfig(item) && item.GetKind() == v1alpha1.KindMutualTLS {
			configs = append(configs, item)
		}
	}
	if file == "" {
		switch len(configs) {
		case 0:
			return nil, errors.New("there is no config: give --config FILE, or a MutualTLS in the stream")
		case 1:
			return configs[0], nil
		}
		return nil, fmt.Errorf("the stream holds %d MutualTLS (%s, %s); one render has one config: give --config FILE", len(configs), configs[0].GetName(), configs[1].GetName())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	items, err := fromBytes(text)
	if err != nil {
		return nil, fmt.Errorf("--config %s: %w", file, unquoted(err))
	}
	if len(items) != 1 {
		return nil, fmt.Errorf("--config %s: holds %d objects; it is to hold the MutualTLS alone", file, len(items))
	}
	numberDocuments(items, documentStarts(text))
	return items[0], placeIn(items, filepath.Base(file))
}

// readStateFolder reads what issue wrote, without what only issue needs.
func readStateFolder(name string) ([]*yaml.RNode, error) {
	if name == "" {
		return nil, nil
	}
	items, err := readPath(name)
	if err != nil {
		return nil, fmt.Errorf("--state: %w", err)
	}
	var state []*yaml.RNode
	written := false // by issue, maybe for no workload
	for _, item := range items {
		file := pathOf(item)
		written = written || isKustomizationName(file) || item.GetKind() != v1alpha1.KindMutualTLS
		//lint:ignore SA1019 files have them still
		for _, annotation := range []string{kioutil.PathAnnotation, kioutil.LegacyPathAnnotation, kioutil.IndexAnnotation, kioutil.LegacyIndexAnnotation, kioutil.SeqIndentAnnotation} {
			if err := item.PipeE(yaml.ClearAnnotation(annotation)); err != nil {
				return nil, err
			}
		}
		switch {
		case isKustomizationName(file), isOurConfig(item):
		case isState(item):
			state = append(state, item)
		default:
			return nil, fmt.Errorf("--state: %s holds a %s %s, which is no state of meshless; give the folder that `meshless issue` writes", filepath.Join(name, file), item.GetKind(), item.GetName())
		}
	}
	if !written {
		return nil, fmt.Errorf("--state: %s holds no state of meshless; give the folder that `meshless issue` writes", name)
	}
	return state, nil
}

// setNamespace gives objects without a namespace one, where their kind has namespaces.
func setNamespace(items []*yaml.RNode, kinds manifest.Kinds, namespace string) error {
	if namespace == "" {
		return nil
	}
	for _, item := range manifest.Flatten(items) {
		o := report.ObjectOf(item)
		namespaced, known := openapi.IsNamespaceScoped(yaml.TypeMeta{APIVersion: o.APIVersion, Kind: o.Kind})
		if _, workload := kinds.Templates(item); o.Namespace != "" || !workload && (!known || !namespaced) {
			continue
		}
		if err := item.PipeE(yaml.LookupCreate(yaml.MappingNode, "metadata"), yaml.SetField("namespace", yaml.NewStringRNode(namespace))); err != nil {
			return fmt.Errorf("--namespace: %s: %w", o, err)
		}
	}
	return nil
}
