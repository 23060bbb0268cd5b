package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/GoogleContainerTools/kpt-functions-sdk/go/fn"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/kustomize"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
)

// isKustomization tells whether the files of a folder are only the source of what is applied. A kpt package is rendered
// in place, also one that is a kustomization.
func isKustomization(folder string) bool {
	_, err := os.Stat(filepath.Join(folder, "Kptfile"))
	return kustomizationFile(folder) != "" && err != nil
}

// readRendered reads rendered manifests: of a kustomization, what `meshless build` prints of it, and its config.
// Findings of that render go to the report; where one is an error, there are no manifests.
func (p *program) readRendered(source string, flags *pflag.FlagSet, r *report.Report) (items []*yaml.RNode, config *yaml.RNode, err error) {
	if err := checkBuilds(source, flags); err != nil {
		return nil, nil, err
	}
	if !isKustomization(source) {
		items, err = p.readItems(source)
		return items, nil, err
	}
	objects, config, err := p.buildObjects(source, flags, r)
	switch {
	case errors.Is(err, kustomize.ErrNoTransformer):
		return nil, nil, withoutFunction(source, p.running.Name(), err)
	case err != nil || r.Failed():
		return nil, nil, err
	}
	text, err := kustomize.Text(objects)
	if err != nil {
		return nil, nil, err
	}
	items, err = readStream(bytes.NewReader(text), source)
	return items, config, err
}

func withoutFunction(source, command string, err error) error {
	return fmt.Errorf("%[1]s: is a kustomization without our function: %[2]w. What was rendered in another way is a stream: kustomize build %[1]s | meshless %[3]s -", source, err, command)
}

// checkBuilds refuses flags of kustomize for what is not built.
func checkBuilds(source string, flags *pflag.FlagSet) error {
	if given := givenKustomizeFlag(flags); given != "" && !isKustomization(source) {
		return wrongUse("--%s: is for a kustomization, and %s is none that is built (what has a Kptfile is read as it lies, or from `meshless build`)", given, source)
	}
	return checkHelmFlags(flags)
}

// conclude prints the findings and fails if there is an error among them.
func (p *program) conclude(r *report.Report) error { return p.concludeOn(r, failOnError, "") }

// concludeOn prints the findings and fails if one is as severe as failOn says. In that case the last line counts them,
// and ends in what follows.
func (p *program) concludeOn(r *report.Report, failOn, follows string) error {
	if err := r.WriteText(p.err); err != nil {
		return err
	}
	switch warnings := r.Count(fn.Warning); {
	case failOn == failOnWarning && r.Failed():
		fmt.Fprintf(p.err, "error: --fail-on %s: %s and %s%s\n", failOn, count(r.Count(fn.Error), "error"), count(warnings, "warning"), follows)
	case failOn == failOnWarning && warnings > 0:
		fmt.Fprintf(p.err, "error: --fail-on %s: %s%s\n", failOn, count(warnings, "warning"), follows)
	}
	if fails(r, failOn) {
		return errReported
	}
	return nil
}

// fails tells whether a finding is as severe as failOn says.
func fails(r *report.Report, failOn string) bool {
	return r.Failed() || failOn == failOnWarning && r.Count(fn.Warning) > 0
}

// count is "1 warning" or "2 warnings".
func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// The values of --fail-on.
const (
	failOnError   = "error"
	failOnWarning = "warning"
)

// failOnFlag lets a command fail for less than an error.
func failOnFlag(cmd *cobra.Command, failOn *string) {
	cmd.Flags().StringVar(failOn, "fail-on", failOnError, "the least severe finding that fails the command: error or warning")
}

func checkFailOn(failOn string) error {
	if failOn != failOnError && failOn != failOnWarning && failOn != "" {
		return wrongUse("--fail-on: %q is neither error nor warning", failOn)
	}
	return nil
}

// clockFlag lets a command look from another time.
func clockFlag(cmd *cobra.Command, now *string) {
	cmd.Flags().StringVar(now, "now", "", "work as if it were this time (RFC 3339); for rehearsals and tests")
}

func (p *program) setClock(text string) error {
	if text == "" {
		return nil
	}
	now, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return wrongUse("--now: %q is no time like 2026-10-12T00:00:00Z", text)
	}
	p.now = func() time.Time { return now }
	return nil
}

// specIn is that of a config among the items; the zero Spec without.
func specIn(items []*yaml.RNode) v1alpha1.Spec {
	for _, item := range items {
		if report.ObjectOf(item).Kind == v1alpha1.KindMutualTLS {
			if config, err := v1alpha1.Load(item); err == nil {
				return config.Spec
			}
		}
	}
	return v1alpha1.Spec{}
}

// sourceOf is the file or the folder that a command is to read, or "-" for standard input.
func sourceOf(args []string) string {
	if len(args) == 0 {
		return "-"
	}
	return args[0]
}

func (p *program) readItems(source string) ([]*yaml.RNode, error) {
	if source == "-" {
		return readStream(p.in, "standard input")
	}
	return readPath(source)
}

// readPath reads a file, or all manifests of a folder.
func readPath(name string) ([]*yaml.RNode, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		if err := refuseJSON(name); err != nil {
			return nil, err
		}
		return readFolder(name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readStream(f, name)
}

func readStream(in io.Reader, name string) ([]*yaml.RNode, error) {
	text, err := io.ReadAll(in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	items, err := (&kio.ByteReader{Reader: bytes.NewReader(text), OmitReaderAnnotations: true}).Read()
	if err == nil {
		err = node.CheckText(text)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	numberDocuments(items, documentStarts(text))
	return items, nil
}
