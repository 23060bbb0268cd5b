package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/statediff"
	"github.com/meshless-dev/meshless/fn/verify"
)

// verifyOptions are the flags of `meshless verify`.
type verifyOptions struct {
	kustomize                             *pflag.FlagSet // see issueOptions
	now, format, base, ca, config, failOn string
	minLeft                               time.Duration
	noExclusions                          bool
}

func (p *program) verifyCommand() *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify [FILE, DIR or -]",
		Short: "Check rendered manifests: every workload injected, every certificate valid, nothing unsealed",
		Long: `Check rendered manifests from outside, for CI and GitOps: kustomize skips an exec: function silently without --enable-exec.

DIR is a folder of rendered manifests, or a kustomization, which is built as 'meshless build' does, with the flags of
'kustomize build'. What another program has built is a stream:
  kustomize build … DIR | meshless verify -

--base compares the state with that of the branch which is deployed, such as a worktree of main: what is revoked there stays
revoked, and no pod refuses another on the way from one to the other. --ca compares it with a CertificateAuthority that
several packages share. With either, DIR may be a kustomization, of which the state alone is checked.`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: completeFile,
		RunE: func(_ *cobra.Command, args []string) error { return p.verify(sourceOf(args), o) },
	}
	cmd.Flags().StringVar(&o.base, "base", "", "folder or file with the state that is deployed; an error where this one goes back behind it")
	cmd.Flags().StringVar(&o.ca, "ca", "", "file of the CertificateAuthority that this package shares; an error where its bundles are behind it")
	cmd.Flags().StringVar(&o.config, "config", "", "file of the config; an error where the manifests are not what it asks for, images and overrides among it")
	cmd.Flags().DurationVar(&o.minLeft, "min-left", 0, "fail when a certificate expires, or somebody has to issue, sooner than that, like 240h")
	cmd.Flags().BoolVar(&o.noExclusions, "no-exclusions", false, "fail for every workload that leaves ports, networks, interfaces or users out of the mesh, takes plaintext, or is not in it, and for ports of UDP and SCTP of Services in it")
	failOnFlag(cmd, &o.failOn)
	cmd.Flags().StringVarP(&o.format, "output", "o", "text", "text or json")
	kustomizeFlags(cmd.Flags())
	o.kustomize = cmd.Flags()
	clockFlag(cmd, &o.now)
	return cmd
}

func (p *program) verify(source string, o verifyOptions) error {
	switch {
	case o.format != "text" && o.format != "json":
		return wrongUse("--output: %q is neither text nor json", o.format)
	case o.minLeft < 0:
		return wrongUse("--min-left: is less than nothing")
	}
	if err := checkFailOn(o.failOn); err != nil {
		return err
	}
	if err := p.setClock(o.now); err != nil {
		return err
	}
	stateOnly := (o.base != "" || o.ca != "") && isStateSource(source)
	if stateOnly && (o.noExclusions || o.config != "" || givenKustomizeFlag(o.kustomize) != "") {
		return wrongUse("--no-exclusions and --config: want rendered manifests, as do flags of kustomize, and this is state alone; give them the output of `meshless build`")
	}
	r := reportOn(source)
	items, spec, err := p.readChecked(source, stateOnly, o, r)
	if err != nil {
		return err
	}
	if r.Failed() { // the build, which verifies what it makes
		return p.concludeVerify(o, r, verification{Images: []verify.Image{}, Authorities: []verify.Authority{}})
	}
	config, err := p.verifyConfig(spec, o.config)
	if err != nil {
		return err
	}
	result := verify.Check(items, verify.Options{Now: p.now(), EveryWorkload: !stateOnly, NoExclusions: o.noExclusions, Overrides: config.Spec.Workloads.Overrides,
		Kinds: manifest.KindsOf(config.Spec), RenewBefore: config.Spec.Certificates.RenewBefore.Duration}, r)
	leaves := result.Leaves
	if o.config != "" {
		p.against(items, config, r)
	}
	if err := p.verifyState(source, items, spec, o, r); err != nil {
		return err
	}
	r.DropRepeated()
	checked := verification{Objects: len(items), Certificates: len(leaves), Images: result.Images, Authorities: result.Authorities, StateOnly: stateOnly}
	if err := p.concludeVerify(o, r, checked); err != nil || o.format == "json" {
		return err
	}
	if stateOnly {
		_, err = fmt.Fprintf(p.out, "ok: the state, with %d certificates; what the cluster gets is checked without --base and --ca\n", len(leaves))
		return err
	}
	if _, err = fmt.Fprintf(p.out, "ok: %d objects, %d certificates\n", len(items), len(leaves)); err != nil {
		return err
	}
	for _, image := range result.Images {
		if _, err := fmt.Fprintf(p.out, "image: %s (containers: %d)\n", image.Name, image.Containers); err != nil {
			return err
		}
	}
	for _, a := range result.Authorities {
		if _, err := fmt.Fprintf(p.out, "authority: %s (certificates: %d)\n", a.Name, a.Certificates); err != nil {
			return err
		}
	}
	return nil
}

// concludeVerify prints the findings, and in JSON what was checked.
func (p *program) concludeVerify(o verifyOptions, r *report.Report, checked verification) error {
	if o.format == "json" {
		return p.concludeJSON(r, o.failOn, checked)
	}
	return p.concludeOn(r, o.failOn, "")
}

// verifyConfig is the config of a file, or else that with the items.
func (p *program) verifyConfig(spec v1alpha1.Spec, file string) (*v1alpha1.MutualTLS, error) {
	if file == "" {
		return &v1alpha1.MutualTLS{Spec: spec}, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	var config *v1alpha1.MutualTLS
	n, err := yaml.Parse(string(text))
	if err == nil {
		err = node.CheckItem(n)
	}
	if err == nil {
		config, err = v1alpha1.Load(n)
	}
	if err != nil {
		return nil, fmt.Errorf("--config %s: %w", file, err)
	}
	return config, nil
}

// against compares the items with a config: a render with it, which may make nothing, must leave them as they are.
func (p *program) against(items []*yaml.RNode, config *v1alpha1.MutualTLS, r *report.Report) {
	if r.Failed() {
		return // what is wrong without a config would be said twice
	}
	never := *config
	never.Spec.Issuance = v1alpha1.IssuanceNever
	rendered := &report.Report{}
	out := pipeline.Run(items, &never, pipeline.Options{Now: p.now()}, rendered)
	if rendered.Failed() {
		r.Add(rendered)
		return
	}
	verify.Against(items, out, r)
}

// verifyState checks what no single object shows: deadlines, and the state beside that of the base and of a shared
// CertificateAuthority.
func (p *program) verifyState(source string, items []*yaml.RNode, spec v1alpha1.Spec, o verifyOptions, r *report.Report) error {
	check := &statediff.Checker{Now: p.now(), Profile: profileOf(spec), Report: r}
	state := statediff.ReadState(items, r)
	authority := state
	if o.ca != "" {
		item, _, err := readAuthorityFile(o.ca)
		if err != nil {
			return err
		}
		authority = statediff.ReadState([]*yaml.RNode{item}, r)
		if len(state.Bundles) == 0 {
			r.Error(authority.Authority, "", "there is no bundle to hold against --ca %s: the package was never issued, or this is not its folder", o.ca)
		}
		check.CheckSharedCA(state, authority)
	}
	check.CheckConsistency(state, authority, o.ca != "")
	if o.base != "" {
		base, err := readBase(o.base)
		if err != nil {
			return fmt.Errorf("--base: %w", err)
		}
		head := state
		if o.ca != "" && !state.HasAuthority { // it is the package's, wherever it lies
			head = state.With(authority)
		}
		check.CheckRegression(statediff.ReadState(base, r), head, isFolder(source))
	}
	check.CheckRevoked(state)
	check.CheckDeadlines(state, authority, o.minLeft)
	return nil
}

// isStateSource tells whether a source is one of state, where no workload is rendered: a kustomization, its folder of
// state, or a file with a CertificateAuthority alone.
func isStateSource(source string) bool {
	_, _, err := readAuthorityFile(source)
	return isKustomization(source) || err == nil
}

// reportOn is a report that names places in what is verified. Lines of a stream say nothing to anybody.
func reportOn(source string) *report.Report {
	r := &report.Report{Lines: source != "-"}
	if r.Lines && !isFolder(source) {
		r.File = source
	}
	return r
}

// readChecked reads what is verified, and the config with it; of a kustomization whose state alone is asked for, that.
func (p *program) readChecked(source string, stateOnly bool, o verifyOptions, r *report.Report) (items []*yaml.RNode, spec v1alpha1.Spec, err error) {
	var config *yaml.RNode
	if stateOnly && isFolder(source) {
		if all, err := readFolder(source); err == nil { // it may hold files that are no manifests: then the defaults serve
			spec = specIn(all)
		}
		items, err = readStateOf(source)
		return items, spec, err
	}
	if stateOnly {
		items, err = p.readItems(source)
	} else {
		items, config, err = p.readRendered(source, o.kustomize, r)
	}
	if config != nil {
		return items, specIn([]*yaml.RNode{config}), err
	}
	return items, specIn(items), err
}

// readBase reads what --base names. A folder whose state is in its folder of state is a kustomization.
func readBase(name string) ([]*yaml.RNode, error) {
	if isFolder(name) {
		return readStateOf(name)
	}
	return readPath(name)
}

// readStateOf reads the state of a folder: a kustomization's lies in its folder mtls, which may be missing; a package
// is read whole.
func readStateOf(folder string) ([]*yaml.RNode, error) {
	if !isKustomization(folder) {
		return readFolder(folder)
	}
	if state := filepath.Join(folder, pipeline.StateFolder); isFolder(state) {
		return readFolder(state)
	}
	// the folder of state itself, which is a kustomization as well, or one that was never issued
	return readFolder(folder)
}

func isFolder(source string) bool {
	info, err := os.Stat(source)
	return source != "-" && err == nil && info.IsDir()
}

// profileOf is what a config says of certificates, or the defaults.
func profileOf(spec v1alpha1.Spec) certs.Profile {
	config := v1alpha1.MutualTLS{Spec: spec}
	config.Default()
	// which only the making of certificates needs
	return certs.ProfileOf(config.Spec.Certificates, spiffeid.TrustDomain{})
}

// finding is one line of `meshless verify -o json`.
type finding struct {
	Severity  string `json:"severity"` // error, warning or info
	Message   string `json:"message"`
	Kind      string `json:"kind,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	Field     string `json:"field,omitempty"`
	File      string `json:"file,omitempty"` // from the folder that is verified
	Line      int    `json:"line,omitempty"`
}

// verification is the JSON of `meshless verify`.
type verification struct {
	OK           bool `json:"ok"`
	Objects      int  `json:"objects"`
	Certificates int  `json:"certificates"`
	// a kustomization's state was checked, and not what the cluster gets
	StateOnly bool           `json:"stateOnly,omitempty"`
	Images    []verify.Image `json:"images"` // of the injected containers
	// of the bundles, with how many certificates each has signed
	Authorities []verify.Authority `json:"authorities"`
	Findings    []finding          `json:"findings"`
}

// concludeJSON prints the findings on standard output, and fails as conclude does.
func (p *program) concludeJSON(r *report.Report, failOn string, out verification) error {
	out.OK, out.Findings = !fails(r, failOn), []finding{}
	for _, f := range r.Findings() {
		out.Findings = append(out.Findings, finding{
			Severity: string(f.Severity), Message: f.Message, Kind: f.Object.Kind, Namespace: f.Object.Namespace, Name: f.Object.Name,
			Field: f.Field, File: f.File, Line: f.Line,
		})
	}
	if err := report.WriteJSON(p.out, out); err != nil {
		return err
	}
	if !out.OK {
		return errReported
	}
	return nil
}
