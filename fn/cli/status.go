package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/kustomize"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/statediff"
	"github.com/meshless-dev/meshless/fn/verify"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

func (p *program) statusCommand() *cobra.Command {
	var format, now, ca string
	cmd := &cobra.Command{
		Use:   "status [FILE, DIR or -]",
		Short: "Show what is due when: certificates, authorities, revoked keys",
		Long: `Show every certificate with its expiry and its next renewal. Where the CertificateAuthority is among the manifests, as in the
folder that 'meshless issue' works on, also the authorities, what happens to them next, and the revoked keys.

Of a kustomization it reads the certificates in its folder mtls/. Where cert-manager issues them, it is built as 'meshless
build' does, with the flags of 'kustomize build'.`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: completeFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "table" && format != "json" {
				return wrongUse("--output: %q is neither table nor json", format)
			}
			if err := p.setClock(now); err != nil {
				return err
			}
			r := &report.Report{}
			items, err := p.readStatus(sourceOf(args), cmd.Flags(), r)
			if err != nil {
				return err
			}
			if r.Failed() {
				return p.conclude(r)
			}
			status, err := p.status(items, ca, r)
			if err != nil {
				return err
			}
			if format == "json" {
				err = report.WriteJSON(p.out, status)
			} else {
				err = status.print(p.out)
			}
			if err != nil {
				return err
			}
			return p.conclude(r)
		},
	}
	cmd.Flags().StringVar(&ca, "ca", "", "file of the CertificateAuthority that the manifests share with others")
	cmd.Flags().StringVarP(&format, "output", "o", "table", "table or json")
	kustomizeFlags(cmd.Flags())
	clockFlag(cmd, &now)
	return cmd
}

// readStatus reads the manifests; of a kustomization, the files that issue works on, which show more than a build, and
// when a build fails. Certificates of cert-manager are in the build alone.
func (p *program) readStatus(source string, flags *pflag.FlagSet, r *report.Report) ([]*yaml.RNode, error) {
	if err := checkBuilds(source, flags); err != nil {
		return nil, err
	}
	if !isKustomization(source) {
		return p.readItems(source)
	}
	k, err := openKustomization(source, kustomizationFile(source))
	switch {
	case errors.Is(err, kustomize.ErrNoTransformer) && holdsState(source): // the folder of state itself
		return p.readItems(source)
	case errors.Is(err, kustomize.ErrNoTransformer):
		return nil, withoutFunction(source, "status", err)
	case err != nil:
		return nil, err
	}
	if managed(k.config) {
		items, config, err := p.readRendered(source, flags, r)
		return append(items, config), err
	}
	state, err := k.readState()
	return append(state, k.config), err
}

// holdsState tells whether a folder is one that issue has written.
func holdsState(folder string) bool {
	_, err := readStateFolder(folder)
	return err == nil
}

// status is what `meshless status` shows, and its JSON. Times are UTC.
type status struct {
	Certificates []certificateRow `json:"certificates"`
	// oldest first; empty where the CertificateAuthority is not among the manifests
	Authorities []authorityRow `json:"authorities"`
	NextStep    *nextStep      `json:"nextStep,omitempty"`
	RevokedKeys []revokedRow   `json:"revokedKeys"`
}

// certificateRow is one leaf.
type certificateRow struct {
	Identity string    `json:"identity"`
	Secret   string    `json:"secret"`
	Issuer   string    `json:"issuer,omitempty"` // empty when no bundle of the input holds it
	Expires  time.Time `json:"expires,omitzero"`
	Renewal  time.Time `json:"renewal,omitzero"` // after which the leaf is due
	// Valid, Due, Expired, NotYetValid, Revoked; InCluster where only the cluster knows
	State string `json:"state"`
}

// authorityRow is one authority.
type authorityRow struct {
	Name         string    `json:"name"`
	Slot         string    `json:"slot"`                   // Next, Active or Retired
	Published    time.Time `json:"published"`              // when it was made
	SignsFrom    time.Time `json:"signsFrom,omitzero"`     // Active and Next: since or from when it signs
	SignsUntil   time.Time `json:"signsUntil,omitzero"`    // Active: when Next takes over at the earliest
	TrustedUntil time.Time `json:"trustedUntil"`           // Retired: when it goes; others: when it expires
	ReplacedFrom time.Time `json:"replacedSince,omitzero"` // it is being replaced ahead of time
}

// nextStep is what the next `meshless issue` that is not before At does to the authorities.
type nextStep struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
}

// revokedRow is one key that peers refuse.
type revokedRow struct {
	Key      string `json:"key"` // SHA-256 of the SubjectPublicKeyInfo
	Identity string `json:"identity,omitempty"`
	// when the entry goes; zero where the CertificateAuthority is not among the manifests
	Until time.Time `json:"until,omitzero"`
}

// status reads the manifests. With --ca the authorities are those of its file, and the package is compared with it.
func (p *program) status(items []*yaml.RNode, ca string, r *report.Report) (*status, error) {
	spec := specIn(items)
	leaves := verify.Check(items, verify.Options{Now: p.now(), JustWritten: true, HeldBack: true, Overrides: api.Overrides, Kinds: manifest.KindsOf(spec), RenewBefore: spec.Certificates.RenewBefore.Duration}, r).Leaves
	state := statediff.ReadState(items, r)
	check := &statediff.Checker{Now: p.now(), Profile: profileOf(spec), Report: r}
	authorities := state
	if ca != "" {
		item, _, err := readAuthorityFile(ca)
		if err != nil {
			return nil, err
		}
		authorities = statediff.ReadState([]*yaml.RNode{item}, r)
		check.CheckSharedCA(state, authorities)
	}
	check.CheckRevoked(state)
	check.CheckDeadlines(state, authorities, 0)
	out := &status{Certificates: []certificateRow{}, Authorities: []authorityRow{}, RevokedKeys: []revokedRow{}}
	revoked := maps.Clone(state.Revoked)
	maps.Copy(revoked, authorities.Revoked)
	for _, leaf := range leaves {
		out.Certificates = append(out.Certificates, p.certificateRow(leaf, revoked))
	}
	for _, key := range slices.Sorted(maps.Keys(revoked)) {
		if k := revoked[key]; k.Until.IsZero() || !p.now().After(k.Until.Time) {
			out.RevokedKeys = append(out.RevokedKeys, revokedRow{Key: key, Identity: k.SPIFFEID, Until: k.Until.UTC()})
		}
	}
	out.addAuthorities(authorities.Authorities.Trusted(p.now()), check.Profile)
	return out, nil
}

// certificateRow describes a leaf.
func (p *program) certificateRow(leaf verify.Leaf, revoked map[string]v1alpha1.RevokedKey) certificateRow {
	row := certificateRow{Identity: leaf.Identity, Secret: manifest.EffectiveNamespace(leaf.Secret) + "/" + leaf.Secret.Name, State: "Valid"}
	c := leaf.Certificate
	if c == nil {
		row.State, row.Issuer = "InCluster", leaf.IssuedBy
		return row
	}
	row.Expires, row.Renewal = c.NotAfter, leaf.Due
	if leaf.Issuer != nil {
		row.Issuer = leaf.Issuer.Subject.CommonName
	}
	_, isRevoked := revoked[svid.KeyDigest(c)]
	switch now := p.now(); {
	case isRevoked:
		row.State = "Revoked"
	case now.After(row.Expires):
		row.State = "Expired"
	case now.Before(c.NotBefore):
		row.State = "NotYetValid"
	case now.After(row.Renewal):
		row.State = "Due"
	}
	return row
}

// addAuthorities describes the authorities and what happens to them next.
func (s *status) addAuthorities(list certs.Authorities, profile certs.Profile) {
	until := profile.SignsUntil(list)
	for _, a := range list {
		row := authorityRow{Name: a.Certificate.Subject.CommonName, Slot: string(a.Slot), Published: a.Created(), TrustedUntil: a.Certificate.NotAfter, ReplacedFrom: a.Replaced}
		switch a.Slot {
		case v1alpha1.SlotActive:
			row.SignsFrom, row.SignsUntil = a.ActiveSince, until
		case v1alpha1.SlotNext:
			row.SignsFrom = until
		case v1alpha1.SlotRetired:
			row.TrustedUntil = a.TrustedUntil
		}
		s.Authorities = append(s.Authorities, row)
	}
	if what, at := list.NextStep(); what != "" {
		s.NextStep = &nextStep{At: at, What: what}
	} else if len(list) > 0 {
		s.NextStep = &nextStep{At: until, What: "the Next authority becomes the Active one, and a new Next is published"}
	}
}

// print writes the tables.
func (s *status) print(out io.Writer) error {
	if len(s.Certificates) == 0 {
		fmt.Fprintln(out, "no certificates here; `meshless issue DIR` makes them. Those of cert-manager show in the output of the build: kustomize build … | meshless status -")
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(s.Certificates) > 0 {
		fmt.Fprintln(table, "IDENTITY\tISSUER\tEXPIRES\tRENEWAL\tSTATE")
	}
	for _, row := range s.Certificates {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", row.Identity, cmp.Or(row.Issuer, "-"), day(row.Expires), day(row.Renewal), row.State)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(s.Authorities) > 0 {
		fmt.Fprintln(table, "\nAUTHORITY\tSLOT\tPUBLISHED\tSIGNS FROM\tSIGNS UNTIL\tTRUSTED UNTIL")
	}
	for _, row := range s.Authorities {
		slot := row.Slot
		if !row.ReplacedFrom.IsZero() {
			slot += " (being replaced)"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", row.Name, slot, day(row.Published), day(row.SignsFrom), day(row.SignsUntil), day(row.TrustedUntil))
	}
	if s.NextStep != nil {
		fmt.Fprintf(table, "next: at the first `meshless issue` after %s, %s\n", day(s.NextStep.At), s.NextStep.What)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(s.RevokedKeys) > 0 {
		fmt.Fprintln(table, "\nREVOKED KEY\tOF\tUNTIL")
	}
	for _, row := range s.RevokedKeys {
		fmt.Fprintf(table, "%s\t%s\t%s\n", row.Key, cmp.Or(row.Identity, "-"), day(row.Until))
	}
	return table.Flush()
}

func day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04Z")
}
