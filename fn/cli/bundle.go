package cli

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

// refreshHint is how often others should look for a new bundle. An authority signs a day after it was published at the
// earliest.
const refreshHint = 6 * time.Hour

func (p *program) bundleCommand() *cobra.Command {
	formats := []string{"pem", "spiffe"}
	format := formats[0]
	cmd := &cobra.Command{
		Use:   "bundle [FILE, DIR or -]",
		Short: "Print the trust bundle, for other trust domains to federate with: PEM or a SPIFFE bundle",
		Long: `Print the certificates of the authorities that the manifests publish, in PEM or as a SPIFFE bundle document. They are public.
The other side puts the text into spec.federation of its config, or gives the document to SPIRE or another implementation of SPIFFE.`,
		Example: "  meshless bundle DIR > our.pem\n  kustomize build --enable-alpha-plugins --enable-exec DIR | meshless bundle -o spiffe - > our.json",
		Args:    cobra.MaximumNArgs(1), ValidArgsFunction: completeFile,
		RunE: func(_ *cobra.Command, args []string) error {
			if format != "pem" && format != "spiffe" {
				return wrongUse("--output: %q is neither pem nor spiffe", format)
			}
			items, err := p.readItems(sourceOf(args))
			if err != nil {
				return err
			}
			bundle, err := publishedBundle(items)
			if err != nil {
				return err
			}
			text := svid.EncodeCertificates(bundle.authorities...)
			if format == "spiffe" {
				if text, err = bundle.spiffeDocument(); err != nil {
					return err
				}
			}
			_, err = p.out.Write(text)
			return err
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", format, "pem or spiffe")
	if err := cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is there
	}
	return cmd
}

// published is what the bundle ConfigMaps hold.
type published struct {
	trustDomain spiffeid.TrustDomain
	authorities []*x509.Certificate
	added       bool // some of them by the config (spec.certificates.ca.additional)

	in string // the first ConfigMap, and its file
}

// publishedBundle reads the bundle ConfigMaps, which must all hold the same: others would else trust what some of our
// pods do not.
func publishedBundle(items []*yaml.RNode) (*published, error) {
	var first *published
	for _, item := range manifest.FindState(manifest.Flatten(items)).Bundles {
		annotations, text := item.GetAnnotations(), item.GetDataMap()[api.BundleFile]
		object := report.NameOf(item)
		td, err := spiffeid.TrustDomainFromString(annotations[api.IdentityAnnotation])
		if err != nil {
			return nil, fmt.Errorf("%s: annotation %s: %w", object, api.IdentityAnnotation, err)
		}
		authorities, err := svid.ParseCertificates([]byte(text))
		if err == nil {
			_, err = svid.NewBundle(td, authorities, nil)
		}
		switch {
		case first != nil && td != first.trustDomain:
			return nil, fmt.Errorf("%s is of trust domain %q, and %s of %q; name the manifests of one mesh", object, td.Name(), first.in, first.trustDomain.Name())
		case err != nil:
			return nil, fmt.Errorf("%s: data[%s]: %w", object, api.BundleFile, err)
		case first == nil:
			first = &published{trustDomain: td, authorities: authorities, in: object, added: annotations[api.AdditionalAnnotation] != ""}
		case !slices.EqualFunc(authorities, first.authorities, (*x509.Certificate).Equal):
			return nil, fmt.Errorf("%s and %s publish different authorities; `meshless issue` on the whole package mends it", first.in, object)
		}
	}
	if first == nil {
		return nil, fmt.Errorf("there is no bundle here (configmap %s); `meshless issue DIR` makes it. Where cert-manager issues, the bundle is what its issuer publishes", api.BundleName("<package>"))
	}
	return first, nil
}

// spiffeDocument is a SPIFFE bundle (SPIFFE Trust Domain and Bundle, section 4). It depends on the authorities alone,
// so it is the same at every run.
func (p *published) spiffeDocument() ([]byte, error) {
	bundle := spiffebundle.FromX509Authorities(p.trustDomain, p.authorities)
	bundle.SetRefreshHint(refreshHint)
	if !p.added { // those come and go in any order, and a number that went back would be worse than none
		bundle.SetSequenceNumber(sequence(p.authorities))
	}
	document, err := bundle.Marshal()
	if err != nil {
		return nil, fmt.Errorf("writing a SPIFFE bundle: %w", err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, document, "", "  "); err != nil {
		return nil, fmt.Errorf("writing a SPIFFE bundle: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// sequence grows with every change of a bundle that rolls, and needs no memory: a new authority begins later than all
// others, and between two new ones authorities only go. So it is the time of the newest and, below that, how many are
// gone of sequenceStep.
func sequence(authorities []*x509.Certificate) uint64 {
	const sequenceStep = 1000
	var newest int64
	for _, ca := range authorities {
		newest = max(newest, ca.NotBefore.Unix())
	}
	return uint64(newest)*sequenceStep + sequenceStep - uint64(min(len(authorities), sequenceStep))
}
