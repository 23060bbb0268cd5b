package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/model"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/verify"
)

func (p *program) verifyCommand() *cobra.Command {
	var now string
	cmd := &cobra.Command{
		Use:   "verify [FILE, DIR or -]",
		Short: "Check rendered manifests: every workload injected, every certificate valid, nothing unsealed",
		Long: `Check rendered manifests from outside, for CI and GitOps: kustomize skips an exec: function silently without --enable-exec.

A kustomization is checked by its output:
  kustomize build --enable-alpha-plugins --enable-exec DIR | meshless verify -`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: completeFile,
		RunE: func(_ *cobra.Command, args []string) error {
			if err := p.setClock(now); err != nil {
				return err
			}
			if err := refuseKustomization(args, "verify"); err != nil {
				return err
			}
			items, err := p.readItems(args)
			if err != nil {
				return err
			}
			r := &report.Report{}
			leaves := verify.Check(items, verify.Options{Now: p.now(), EveryWorkload: true, Kinds: kindsIn(items)}, r)
			if err := p.conclude(r); err != nil {
				return err
			}
			_, err = fmt.Fprintf(p.out, "ok: %d objects, %d certificates\n", len(items), len(leaves))
			return err
		},
	}
	clockFlag(cmd, &now)
	return cmd
}

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

func (p *program) statusCommand() *cobra.Command {
	var format, now string
	cmd := &cobra.Command{
		Use:   "status [FILE, DIR or -]",
		Short: "Show the certificates in manifests: identity, issuer, expiry, next renewal",
		Args:  cobra.MaximumNArgs(1), ValidArgsFunction: completeFile,
		RunE: func(_ *cobra.Command, args []string) error {
			if format != "table" && format != "json" {
				return fmt.Errorf("--output: %q is neither table nor json", format)
			}
			if err := p.setClock(now); err != nil {
				return err
			}
			items, err := p.readItems(args)
			if err != nil {
				return err
			}
			r := &report.Report{}
			rows := p.statusRows(items, r)
			if format == "json" {
				encoder := json.NewEncoder(p.out)
				encoder.SetIndent("", "  ")
				err = encoder.Encode(rows)
			} else {
				err = p.printStatus(rows)
			}
			if err != nil {
				return err
			}
			return p.conclude(r)
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "table", "table or json")
	clockFlag(cmd, &now)
	return cmd
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
		return fmt.Errorf("--now: %w", err)
	}
	p.now = func() time.Time { return now }
	return nil
}

// statusRow is one line of `meshless status`, and its JSON.
type statusRow struct {
	Identity string    `json:"identity"`
	Secret   string    `json:"secret"`
	Issuer   string    `json:"issuer,omitempty"` // empty when no bundle of the input holds it
	Expires  time.Time `json:"expires"`
	Renewal  time.Time `json:"renewal"` // when the leaf comes into its renewal window
	State    string    `json:"state"`   // Valid, Due, Expired, NotYetValid
}

// statusRows reads the leaves. The renewal window is that of a config among the items, or half of the leaf's life.
func (p *program) statusRows(items []*yaml.RNode, r *report.Report) []statusRow {
	leaves := verify.Check(items, verify.Options{Now: p.now(), Kinds: kindsIn(items)}, r)
	rows := []statusRow{}
	if len(leaves) == 0 {
		return rows
	}
	renewBefore := specIn(items).Certificates.RenewBefore.Duration
	for _, leaf := range leaves {
		c := leaf.Certificate
		window := c.NotAfter.Sub(c.NotBefore) / 2
		if renewBefore > 0 {
			window = min(window, renewBefore)
		}
		row := statusRow{Identity: leaf.Identity, Secret: leaf.Secret.Namespace + "/" + leaf.Secret.Name, Expires: c.NotAfter, Renewal: c.NotAfter.Add(-window), State: "Valid"}
		if leaf.Issuer != nil {
			row.Issuer = leaf.Issuer.Subject.CommonName
		}
		switch now := p.now(); {
		case now.After(row.Expires):
			row.State = "Expired"
		case now.Before(c.NotBefore):
			row.State = "NotYetValid"
		case now.After(row.Renewal):
			row.State = "Due"
		}
		rows = append(rows, row)
	}
	return rows
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

func kindsIn(items []*yaml.RNode) model.Kinds { return model.KindsOf(specIn(items)) }

func (p *program) printStatus(rows []statusRow) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(p.out, "no certificates here; `meshless issue DIR` makes them")
		return err
	}
	table := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "IDENTITY\tISSUER\tEXPIRES\tRENEWAL\tSTATE")
	for _, row := range rows {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", row.Identity, cmp.Or(row.Issuer, "-"), day(row.Expires), day(row.Renewal), row.State)
	}
	return table.Flush()
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04Z") }

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
	items, err := (&kio.ByteReader{Reader: in, OmitReaderAnnotations: true}).Read()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return items, nil
}
