package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/kustomize"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/meshdiff"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/verify"
)

// diffOptions are the flags of `meshless diff`.
type diffOptions struct {
	kustomize         *pflag.FlagSet // see issueOptions
	base, now         string
	exitCode, verbose bool
}

func (p *program) diffCommand() *cobra.Command {
	var o diffOptions
	cmd := &cobra.Command{
		Use:   "diff DIR",
		Short: "Say what a change in Git changes in the mesh: workloads, ports, rules, trust",
		Long: `Say what a change in Git changes in the mesh, for the reviewer of a pull request: one line for each change, in the words of
the mesh. Lines with ! protect less than before or trust more.

DIR is a kustomization, which is built as 'meshless build' does, with the flags of 'kustomize build', a kpt package, or a
folder of rendered manifests. It is compared with what it was in the revision of --base.`,
		Example: "  meshless diff DIR\n  meshless diff --base origin/main... DIR\n  meshless diff --base ../deployed/DIR DIR",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeDirectory,
		RunE: func(_ *cobra.Command, args []string) error { return p.diff(args[0], o) },
	}
	cmd.Flags().StringVar(&o.base, "base", "HEAD", "Git revision to compare with, REV... being where it and HEAD parted; or a folder, which begins with ./, ../ or /")
	cmd.Flags().BoolVar(&o.exitCode, "exit-code", false, "exit with 1 where there is a change, as git diff does")
	cmd.Flags().BoolVarP(&o.verbose, "verbose", "v", false, "name the certificates that are counted")
	kustomizeFlags(cmd.Flags())
	o.kustomize = cmd.Flags()
	clockFlag(cmd, &o.now)
	return cmd
}

func (p *program) diff(dir string, o diffOptions) error {
	if err := p.checkDiff(dir, o); err != nil {
		return err
	}
	base, err := p.diffBase(dir, o)
	if err != nil {
		return err
	}
	r := &report.Report{Lines: true}
	items, config, err := p.readRendered(dir, o.kustomize, r)
	if err != nil {
		return err
	}
	if err := p.conclude(r); err != nil {
		return err
	}
	head, err := p.readSide(dir, items, config)
	if err != nil {
		return err
	}
	changes := meshdiff.Compare(base, head, p.now())
	if len(changes) == 0 {
		fmt.Fprintln(p.err, "no change in the mesh")
		return nil
	}
	if err := p.printDiff(changes, o.verbose); err != nil {
		return err
	}
	if o.exitCode {
		return errReported
	}
	return nil
}

// checkDiff refuses a wrong call before anything is run.
func (p *program) checkDiff(dir string, o diffOptions) error {
	if err := p.setClock(o.now); err != nil {
		return err
	}
	switch {
	case dir == "-":
		return wrongUse("a stream has no base in Git; give the folder")
	case o.base == "" || strings.HasPrefix(o.base, "-"):
		return wrongUse("--base: %q is neither a revision nor a folder", o.base)
	}
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("%s: is not there; give a folder of the work tree", dir)
	}
	if !isFolder(dir) {
		return fmt.Errorf("%s: is a file; give the folder that it is in", dir)
	}
	return checkBuilds(dir, o.kustomize)
}

func (p *program) printDiff(changes []meshdiff.Change, verbose bool) error {
	var out strings.Builder
	for _, c := range changes {
		fmt.Fprintf(&out, "%s %s\n", c.Mark, c.Text)
		for _, name := range c.Names {
			if verbose {
				fmt.Fprintf(&out, "%s   %s\n", c.Mark, name)
			}
		}
	}
	_, err := p.out.Write([]byte(out.String()))
	return err
}

// readSide reads what was rendered of a folder. The CertificateAuthority of a kustomization lies beside that.
func (p *program) readSide(dir string, items []*yaml.RNode, config *yaml.RNode) (*meshdiff.Side, error) {
	if config != nil {
		items = append(items, config)
	}
	kinds, ignored := manifest.KindsOf(specIn(items)), &report.Report{} // package verify says what is wrong
	var images []string
	for _, image := range verify.Check(items, verify.Options{Now: p.now(), Kinds: kinds}, ignored).Images {
		images = append(images, image.Name)
	}
	side, err := meshdiff.Read(items, kinds, images, ignored)
	if err == nil && config != nil {
		if state, err := readStateOf(dir); err == nil { // without it no key is known to be over
			side.With(state)
		}
	}
	return side, err
}

// diffBase reads the base of a folder: of a revision, or another folder.
func (p *program) diffBase(dir string, o diffOptions) (side *meshdiff.Side, err error) {
	if isPath(o.base) {
		if !isFolder(o.base) {
			return nil, fmt.Errorf("--base: %s: is no folder", o.base)
		}
		side, err = p.renderBase(o.base, o.kustomize)
		return side, asBase(o.base, err)
	}
	top, err := os.MkdirTemp("", "meshless-diff-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(top)
	if top, err = filepath.EvalSymlinks(top); err != nil { // as kustomize names it in errors
		return nil, err
	}
	show, err := p.secret.hide() // from git and its filters
	if err != nil {
		return nil, err
	}
	base, err := checkOut(dir, o.base, top)
	show()
	if err != nil || base == "" {
		return meshdiff.Nothing(), err
	}
	side, err = p.renderBase(base, o.kustomize)
	if err != nil { // nobody finds the folder when this ends
		err = errors.New(strings.ReplaceAll(err.Error(), top+string(os.PathSeparator), o.base+":"))
	}
	return side, asBase(o.base, err)
}

// asBase says of an error that it is the base's. Where that was never right, another is the way out.
func asBase(base string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("--base %s: cannot be rendered: %w; give a --base that `meshless build` takes", base, err)
}

// renderBase renders a base. One that was never in the mesh is a side without anything.
func (p *program) renderBase(dir string, flags *pflag.FlagSet) (*meshdiff.Side, error) {
	r := &report.Report{Lines: true}
	if !isKustomization(dir) { // the flags are for the head, then
		flags = pflag.NewFlagSet("", pflag.ContinueOnError)
	}
	items, config, err := p.readRendered(dir, flags, r)
	switch {
	case errors.Is(err, kustomize.ErrNoTransformer):
		return meshdiff.Nothing(), nil
	case err != nil:
		return nil, err
	case r.Failed():
		return nil, errors.New(strings.Join(r.Errors(), "; "))
	case !meshdiff.HasMesh(items):
		return meshdiff.Nothing(), nil
	}
	return p.readSide(dir, items, config)
}
