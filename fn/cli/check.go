package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
)

// refuseKustomization refuses a folder whose files are only the source of what is applied.
func refuseKustomization(args []string, command string) error {
	if len(args) == 0 || kustomizationFile(args[0]) == "" {
		return nil
	}
	if _, err := os.Stat(filepath.Join(args[0], "Kptfile")); err == nil {
		return nil // rendered in place
	}
	return fmt.Errorf("%[1]s: is a kustomization, which is checked by its output: kustomize build --enable-alpha-plugins --enable-exec %[1]s | meshless %[2]s -", args[0], command)
}

// conclude prints the findings and fails if there is an error among them.
func (p *program) conclude(r *report.Report) error {
	if err := r.WriteText(p.err); err != nil {
		return err
	}
	if r.Failed() {
		return errReported
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
		return fmt.Errorf("--now: %q is no time like 2026-10-12T00:00:00Z", text)
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

func kindsIn(items []*yaml.RNode) manifest.Kinds { return manifest.KindsOf(specIn(items)) }

// readItems reads a stream, a file, or all manifests of a folder.
func (p *program) readItems(args []string) ([]*yaml.RNode, error) {
	in, name := p.in, "standard input"
	if len(args) > 0 && args[0] != "-" {
		info, err := os.Stat(args[0])
		if err != nil {
			return nil, err
		}
		if info.IsDir() {
			return readFolder(args[0])
		}
		f, err := os.Open(args[0])
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in, name = f, args[0]
	}
	text, err := io.ReadAll(in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	items, err := (&kio.ByteReader{Reader: bytes.NewReader(text), OmitReaderAnnotations: true}).Read()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	numberDocuments(items, documentStarts(text))
	return items, nil
}
