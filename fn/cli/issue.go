package cli

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	kbuild "sigs.k8s.io/kustomize/kustomize/v5/commands/build"
	"sigs.k8s.io/kustomize/kyaml/kio/kioutil"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// issueOptions are the flags of `meshless issue`.
type issueOptions struct {
	kpt        bool           // treat the folder as a kpt package although it is a kustomization as well
	kustomize  *pflag.FlagSet // what `kustomize build` is to do with the other functions, charts and files
	build      string         // the user's own build, instead of kustomize in this process
	allowEmpty bool           // see pipeline.Options
	now        string
	ca         string // file of a CertificateAuthority that packages share
	failOn     string // see failOnFlag

	config, state, namespace string // of a stream: see renderOptions
	sets                     string // the namespace that the kustomization sets

	revoke, renew []string // see issue.Actions
	replaceCA     bool
}

func (p *program) issueCommand() *cobra.Command {
	var o issueOptions
	cmd := &cobra.Command{
		Use:   "issue DIR, FILE or -",
		Short: "Make and renew the certificates of a kustomization, a kpt package or a stream",
		Long: `Make what is missing or due, and keep everything else as it is, byte for byte.

A kustomization's certificates are written into its folder mtls/, which the kustomization lists in its resources. It is built
in this process, with the flags of 'kustomize build'; with --build by a command of yours, in whatever version, which a shell
runs. A kpt package is rendered in place, as 'kpt fn render' does. Those of a stream go into the folder of --state.

The first run needs no secret. Later ones open the CA's key when something is due: with the age identity in
MESHLESS_CA_IDENTITY, or in the file that MESHLESS_CA_IDENTITY_FILE names.`,
		Example: `  meshless issue --enable-helm DIR
  meshless issue --build 'kustomize build --enable-alpha-plugins --enable-exec --enable-helm DIR' DIR
  helm template shop ./chart -n prod | meshless issue --config mtls.yaml --state mtls -n prod -`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeDirectory,
		RunE: func(_ *cobra.Command, args []string) error { return p.issue(args[0], o) },
	}
	p.issueFlags(cmd, &o)
	failOnFlag(cmd, &o.failOn)
	cmd.Flags().StringArrayVar(&o.renew, "renew", nil, "give this workload (kind/name or namespace/kind/name) a new key although nothing is due; may be repeated")
	cmd.Flags().BoolVar(&o.replaceCA, "replace-ca", false, "replace the authorities ahead of time, in three runs two days apart: their keys leaked or are lost")
	return cmd
}

// issueFlags are those that issue and revoke share.
func (p *program) issueFlags(cmd *cobra.Command, o *issueOptions) {
	cmd.Flags().StringVar(&o.ca, "ca", "", "file of a CertificateAuthority that several packages share; made when it is missing")
	cmd.Flags().BoolVar(&o.kpt, "kpt", false, "take DIR as a kpt package although it is a kustomization as well")
	cmd.Flags().StringVar(&o.build, "build", "", "command for sh -c that builds DIR, or prints the stream; a failure of it is one of issue")
	cmd.Flags().BoolVar(&o.allowEmpty, "allow-empty", false, "let all certificates go where no workload is left")
	cmd.Flags().StringVar(&o.config, "config", "", "of a stream: file of the config; without it the stream holds a MutualTLS")
	cmd.Flags().StringVar(&o.state, "state", "", "of a stream: folder for the certificates, which 'meshless render --state' reads")
	cmd.Flags().StringVarP(&o.namespace, "namespace", "n", "", "of a stream: namespace of objects that name none, as that of a Helm release")
	kustomizeFlags(cmd.Flags())
	o.kustomize = cmd.Flags()
	clockFlag(cmd, &o.now)
}

func (p *program) issue(folder string, o issueOptions) error {
	if err := checkFailOn(o.failOn); err != nil {
		return err
	}
	if err := kbuild.Validate(nil); err != nil {
		return wrongUse("%v", err)
	}
	if err := p.setClock(o.now); err != nil {
		return err
	}
	if err := o.check(folder); err != nil {
		return err
	}
	if err := checkHelmFlags(o.kustomize); err != nil {
		return err
	}
	switch kustomization := kustomizationFile(folder); {
	case isStream(folder):
		return p.issueStream(folder, o)
	case kustomization != "" && !o.kpt:
		return alone(folder, func() error { return p.issueKustomization(folder, kustomization, o) })
	case isPackage(folder):
		return alone(folder, func() error { return p.issuePackage(folder, o) })
	case !isFolder(folder):
		return fmt.Errorf("%s: is not there; give the folder of a kustomization or a kpt package, or - for a stream", folder)
	}
	return fmt.Errorf("%s: is neither a kustomization (kustomization.yaml) nor a kpt package (Kptfile); manifests without either are a stream, with --config FILE and --state DIR", folder)
}

// check refuses flags that have no effect together, or none on this source.
func (o issueOptions) check(source string) error {
	inProcess := givenKustomizeFlag(o.kustomize)
	inPlace := isFolder(source) && (o.kpt || kustomizationFile(source) == "" && isPackage(source))
	switch {
	case o.build != "" && inProcess != "":
		return wrongUse("--%s: says how kustomize builds in this process, and --build names a command that builds; give it there", inProcess)
	case o.build != "" && inPlace:
		return wrongUse("--build: is for a kustomization or a stream, and a kpt package is rendered in place")
	case o.kpt && !isPackage(source):
		return wrongUse("--kpt: %s is no kpt package: it holds no Kptfile", source)
	case inProcess != "" && (inPlace || isStream(source)):
		return wrongUse("--%s: is for a kustomization, and %s is none that is built", inProcess, source)
	case isFile(source) && (isKustomizationName(source) || filepath.Base(source) == "Kptfile"):
		return wrongUse("%s: is a file; give its folder", source)
	case o.build == "" && o.kustomize.Changed("build"):
		return wrongUse("--build: is empty; give a command")
	case isStream(source) && o.state == "":
		return wrongUse("--state: is missing: a stream has no folder, so say where its certificates are")
	case isStream(source) && source != "-" && o.build != "":
		return wrongUse("--build: prints the stream, and %s is a file; give - in its place", source)
	case !isStream(source) && (o.config != "" || o.state != "" || o.namespace != ""):
		return wrongUse("--config, --state and --namespace are for a stream; a folder has its own")
	}
	return nil
}

// isStream tells whether a source holds manifests one after the other: standard input, or a file.
func isStream(source string) bool { return source == "-" || isFile(source) }

// isPackage tells whether a folder is a kpt package.
func isPackage(folder string) bool { return isFile(filepath.Join(folder, "Kptfile")) }

// errManagedCA says that a flag and a config cannot go together.
var errManagedCA = wrongUse("--ca: cert-manager issues the certificates of this mesh (spec.certificates.issuer), and there is no CertificateAuthority to share")

// issueKustomization renders the kustomization as kustomize would call the function, and stores the state that comes
// out.
func (p *program) issueKustomization(folder, file string, o issueOptions) error {
	show, err := p.secret.hide()
	if err != nil {
		return err
	}
	defer show()
	k, err := openKustomization(folder, file)
	if err != nil {
		return err
	}
	if o.ca != "" && managed(k.config) {
		return errManagedCA
	}
	o.sets = k.namespace
	items, err := p.itemsOf(k, o)
	if err != nil {
		return err
	}
	state, err := k.readState()
	if err != nil {
		return err
	}
	before, err := k.files(state)
	if err != nil {
		return err
	}
	ca, rendered, err := p.renderWith(folder, folder, append(items, state...), k.config, o)
	if err != nil {
		return err
	}
	after := slices.DeleteFunc(rendered, func(item *yaml.RNode) bool { return !isState(item) })
	if len(after)+len(state) == 0 && managed(k.config) {
		fmt.Fprintln(p.err, "cert-manager issues the certificates: there is nothing to store, `kustomize build` renders the whole")
		return nil
	}
	if err := k.keepsApart(after); err != nil {
		return err
	}
	if after, err = withTripwire(after); err != nil {
		return err
	}
	list, err := stateKustomization(after)
	if err != nil {
		return err
	}
	if err := p.store(ca, folder, before, append(after, list), o); err != nil {
		return err
	}
	if !k.listsState {
		fmt.Fprintf(p.err, "warning: %s: add %q to its resources, or the build will not find the certificates\n", filepath.Join(folder, file), pipeline.StateFolder)
	}
	return nil
}

// itemsOf builds the kustomization, here or by the command of --build.
func (p *program) itemsOf(k *kustomization, o issueOptions) ([]*yaml.RNode, error) {
	if o.build == "" {
		return k.build(o)
	}
	return p.buildBy(k, o.build)
}

// issuePackage renders a kpt package in place.
func (p *program) issuePackage(folder string, o issueOptions) error {
	items, err := readFolder(folder)
	if err != nil {
		return err
	}
	config, err := packageConfig(items)
	if err != nil {
		return fmt.Errorf("%s: %w", folder, err)
	}
	before, err := fileNames(items)
	if err != nil {
		return err
	}
	if o.ca != "" && managed(config) {
		return errManagedCA
	}
	ca, rendered, err := p.renderWith(folder, folder, items, config, o)
	if err != nil {
		return err
	}
	return p.store(ca, folder, before, rendered, o)
}

// renderWith renders the items of a source together with the CertificateAuthority that they share, if there is one.
// That does not lie in the folder of their certificates.
func (p *program) renderWith(source, folder string, items []*yaml.RNode, config *yaml.RNode, o issueOptions) (*sharedCA, []*yaml.RNode, error) {
	ca, err := openSharedCA(o.ca, folder)
	if err == nil {
		items, err = ca.addTo(items)
	}
	if err != nil {
		return nil, nil, err
	}
	r := &report.Report{Lines: true}
	rendered := p.renderItems(items, config, o.render(), r)
	if !r.Failed() {
		warnEmpty(source, rendered, r)
	}
	return ca, ca.takeFrom(rendered), p.concludeOn(r, o.failOn, "; nothing was written")
}

// store writes what changed, the shared CertificateAuthority first, and says so.
func (p *program) store(ca *sharedCA, folder string, before []string, after []*yaml.RNode, o issueOptions) error {
	written, err := ca.write()
	if err != nil {
		return err
	}
	changed, err := writeChanges(folder, before, after)
	if err != nil {
		return err
	}
	if written {
		fmt.Fprintln(p.out, ca.path)
	}
	p.printChanges(folder, changed, written)
	if written && ca.raw == nil {
		fmt.Fprintf(p.err, "warning: %s was not there: a new CA was made; packages of another CA refuse its pods\n", ca.path)
	}
	if written || len(changed) > 0 {
		o.nextSteps(p)
	}
	return nil
}

// warnEmpty says that nothing in the folder is in the mesh, most often a mistake, such as a wrong folder. Every
// namespace of the mesh has a mesh map.
func warnEmpty(folder string, rendered []*yaml.RNode, r *report.Report) {
	if !slices.ContainsFunc(rendered, isMeshMap) {
		r.Warn(report.Object{}, "", "%s: holds no workload that is in the mesh", folder)
	}
}

// managed tells whether cert-manager issues, by a config that a render has taken.
func managed(config *yaml.RNode) bool {
	loaded, err := v1alpha1.Load(config)
	return err == nil && loaded.Spec.UsesCertManager()
}

// printChanges names the changed files on standard output.
func (p *program) printChanges(folder string, changed []string, caChanged bool) {
	if len(changed) == 0 && !caChanged {
		fmt.Fprintln(p.err, "nothing is due; no file changed")
		return
	}
	for _, name := range changed {
		fmt.Fprintln(p.out, filepath.Join(folder, name))
	}
}

// packageConfig finds the function's config in a package: what the first mutator of ours in its Kptfile names, or the
// only MutualTLS in it.
func packageConfig(items []*yaml.RNode) (*yaml.RNode, error) {
	var configs []*yaml.RNode
	named := ""
	for _, item := range items {
		if item.GetKind() == v1alpha1.KindMutualTLS && item.GetApiVersion() == v1alpha1.APIVersion {
			configs = append(configs, item)
		}
		if item.GetKind() != "Kptfile" || pathOf(item) != "Kptfile" {
			continue
		}
		inline, file, err := mutatorConfig(item)
		if inline != nil || err != nil {
			return inline, err
		}
		named = path.Clean(file)
	}
	if i := slices.IndexFunc(configs, func(c *yaml.RNode) bool { return pathOf(c) == named }); i >= 0 {
		return configs[i], nil
	}
	switch len(configs) {
	case 0:
		return nil, fmt.Errorf("holds no %s of %s", v1alpha1.KindMutualTLS, v1alpha1.APIVersion)
	case 1:
		return configs[0], nil
	}
	return nil, fmt.Errorf("holds %d objects of kind %s (%s and %s); one package has one", len(configs), v1alpha1.KindMutualTLS, pathOf(configs[0]), pathOf(configs[1]))
}

// mutatorConfig returns the config of the first mutator of a pipeline with an image of ours: the ConfigMap that kpt
// makes of its `configMap:`, or the file that its `configPath:` names. Validators do not count: theirs forbids to
// issue.
func mutatorConfig(kptfile *yaml.RNode) (inline *yaml.RNode, file string, err error) {
	steps, err := kptfile.Pipe(yaml.Lookup("pipeline", "mutators"))
	if err != nil || steps == nil {
		return nil, "", nil
	}
	elements, err := steps.Elements()
	if err != nil {
		return nil, "", errors.New("kptfile: pipeline.mutators is not a list")
	}
	for _, step := range elements {
		if image := step.Field("image"); image == nil || !strings.Contains(yaml.GetValue(image.Value), "meshless") {
			continue
		}
		if file := step.Field("configPath"); file != nil {
			return nil, yaml.GetValue(file.Value), nil
		}
		if data := step.Field("configMap"); data != nil {
			inline = yaml.MustParse("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: function-input}\n")
			return inline, "", inline.PipeE(yaml.SetField("data", data.Value))
		}
	}
	return nil, "", nil
}

// isState tells whether an item is what the next render must see again. Mesh maps, Services, Certificates of
// cert-manager, copies for hooks, and policies for admission and the network are derived anew.
func isState(item *yaml.RNode) bool {
	if item.GetKind() == v1alpha1.KindCertificateAuthority {
		return true
	}
	derived := isMeshMap(item) || manifest.IsManagedCertificate(item) || manifest.IsPolicy(item) || manifest.IsDirectPolicy(item) || item.GetKind() == "Service" || manifest.IsHookCopy(item)
	return item.GetAnnotations()[api.IdentityAnnotation] != "" && !derived
}

// isMeshMap tells whether an item is a mesh map of ours.
func isMeshMap(item *yaml.RNode) bool {
	_, mesh := item.GetDataMap()[api.MeshFile]
	return mesh && item.GetAnnotations()[api.IdentityAnnotation] != ""
}

// pathOf is the file that an item's annotations name; "" where they name none.
func pathOf(item *yaml.RNode) string {
	file, _, _ := kioutil.GetFileAnnotations(item)
	return file
}
