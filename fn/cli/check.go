package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/GoogleContainerTools/kpt-functions-sdk/go/fn"
	"github.com/spf13/cobra"
	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
)

// isKustomization tells whether the files of a folder are only the source of what is applied. A kpt package is rendered
// in place, also one that is a kustomization.
func isKustomization(folder string) bool {
	_, err := os.Stat(filepath.Join(folder, "Kptfile"))
	return kustomizationFile(folder) != "" && err != nil
}

// refuseKustomization refuses a kustomization where rendered manifests are wanted.
func refuseKustomization(source, command string) error {
	if !isKustomization(source) {
		return nil
	}
	return fmt.Errorf("%[1]s: is a kustomization, which is checked by its output: meshless build %[1]s | meshless %[2]s -", source, command)
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
