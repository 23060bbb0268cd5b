package meshmap_test

import (
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/meshmap"
)

const shop = `apiVersion: meshless.dev/v1alpha1
kind: Mesh
namespace: prod
package: p1
trustDomain: cluster.local
clusterDomain: cluster.local
inbound: {mode: Strict, default: Deny}
outbound: {unknown: Passthrough}
`

// A map that is not understood whole is not used at all.
func ExampleParse() {
	m, err := meshmap.Parse([]byte(shop))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(m.TrustDomain, m.Inbound.Mode, m.Inbound.Default)

	_, err = meshmap.Parse([]byte(shop + "inbuond: {}\n"))
	fmt.Println("a misspelled field is an error:", err != nil)
	// Output:
	// cluster.local Strict Deny
	// a misspelled field is an error: true
}

// In a pattern, * stands for characters within one segment of the path.
func ExampleMatchID() {
	const pattern = "spiffe://cluster.local/ns/shop/*/web-*"
	for _, id := range []string{
		"spiffe://cluster.local/ns/shop/deployment/web-1",
		"spiffe://cluster.local/ns/other/deployment/web-1",
		"spiffe://elsewhere.org/ns/shop/deployment/web-1",
	} {
		fmt.Println(meshmap.MatchID(pattern, spiffeid.RequireFromString(id)))
	}
	// Output:
	// true
	// false
	// false
}
