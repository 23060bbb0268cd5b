// Package cli is the command line of meshless: the KRM function on standard input, and the commands of
// docs/commands.md. Text for people goes to stderr, data to stdout. Every failure is one line that names what is wrong
// and the way out, and exit code 1.
package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/meshless-dev/meshless/internal/api"
)

// errReported ends a command whose findings were printed already.
var errReported = errors.New("reported")

// usageError is a value of a flag that the command does not know: a wrong call, whatever the input.
type usageError struct{ message string }

func (e *usageError) Error() string { return e.message }

func wrongUse(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// program is what a command needs of the world.
type program struct {
	in       io.Reader
	out, err io.Writer
	now      func() time.Time
	running  *cobra.Command // nil until the command line was understood
	secret   *caIdentity
}

// Main runs meshless and returns the exit code: 0, 1 for a failure, or 2 for a wrong call.
func Main(args []string, in io.Reader, out, errs io.Writer) (code int) {
	defer func() {
		if bug := recover(); bug != nil {
			fmt.Fprintf(errs, "error: internal error, which is a bug of meshless %s; please report it with the input: %v\n", api.Version, bug)
			code = 1
		}
	}()
	return (&program{in: in, out: out, err: errs, now: time.Now}).main(args)
}

func (p *program) main(args []string) (code int) {
	p.secret = keepIdentity()
	root := p.root(args)
	root.SetArgs(args)
	switch err := root.Execute(); {
	case err == nil:
		return 0
	case p.running == nil: // cobra refused the command line
		fmt.Fprintf(p.err, "error: %v; see meshless --help\n", err)
		return 2
	case errors.As(err, new(*usageError)): // a value that cobra takes for any text
		fmt.Fprintf(p.err, "error: %v; see %s --help\n", err, p.running.CommandPath())
		return 2
	case !errors.Is(err, errReported):
		fmt.Fprintf(p.err, "error: %v\n", err)
	}
	return 1
}

func (p *program) root(args []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "meshless",
		Short: "Mutual TLS for Kubernetes workloads, rendered into Git instead of run by a control plane",
		Long: `meshless turns the workloads of a kustomization or kpt package into mTLS-enabled ones.

As a KRM function it reads a ResourceList on standard input, as kustomize and kpt call it:
  kustomize build --enable-alpha-plugins --enable-exec DIR
  kpt fn render DIR

The config is an object of kind MutualTLS (meshless.dev/v1alpha1). Certificates are made by kpt and by
'meshless issue', never by 'kustomize build'.`,
		Version: buildVersion(), Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f, ok := p.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
				return cmd.Help()
			}
			return p.function()
		},
	}
	root.PersistentPreRun = func(cmd *cobra.Command, _ []string) { p.running = cmd }
	root.SetIn(p.in)
	root.SetOut(p.out)
	root.SetErr(p.err)
	root.AddCommand(p.issueCommand(), p.revokeCommand(), p.buildCommand(), p.renderCommand(), p.stripCommand(), p.verifyCommand(), p.statusCommand(), p.keygenCommand(), p.graphCommand(), p.diffCommand(), p.bundleCommand(), p.installCommand(), p.versionCommand())
	root.SetVersionTemplate("{{.Version}}")
	root.InitDefaultCompletionCmd(args...)
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			cmd.Args, cmd.RunE = cobra.NoArgs, func(*cobra.Command, []string) error {
				return wrongUse("completion of which shell? bash, zsh, fish or powershell")
			}
		}
	}
	return root
}
