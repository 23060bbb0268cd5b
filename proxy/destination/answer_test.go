package destination_test

import (
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/proxy/destination"
)

// answer is what is expected of a Destination: without the claims, but with who is listed for all of them.
type answer struct {
	Kind        destination.Kind
	Host        string
	Identities  []string // of federations: patterns
	AnyMember   bool     // any identity of the trust domain may answer
	Reason      string
	TrustDomain string
}

func answerOf(d destination.Destination) answer {
	a := answer{Kind: d.Kind, Host: d.Host, Reason: d.Reason, TrustDomain: d.TrustDomain}
	a.AnyMember = len(d.Claims) == 1 && d.Claims[0].Open && d.Claims[0].Namespace == ""
	for _, c := range d.Claims {
		for _, text := range c.Identities {
			id, err := spiffeid.FromString(text)
			if (err != nil || d.Accepts(id, nil) == destination.ByMap) && !slices.Contains(a.Identities, text) {
				a.Identities = append(a.Identities, text)
			}
		}
	}
	return a
}
