package verify

import (
	"cmp"
	"maps"
	"slices"

	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

// Result is what Check saw.
type Result struct {
	Leaves []Leaf  // in the order of the items
	Images []Image // of the injected containers, by name
	// Authorities are those of the bundles, whom the pods trust to name anybody; in the order of the bundle
	Authorities []Authority
}

// Authority is one that a bundle trusts.
type Authority struct {
	Name         string `json:"name"` // the common name of its subject, or the whole subject
	Fingerprint  string `json:"fingerprint"`
	Certificates int    `json:"certificates"` // how many of the input it has signed
	Additional   bool   `json:"additional,omitempty"`
}

// Image is an image of ours as manifests name it.
type Image struct {
	Name       string `json:"name"`
	Containers int    `json:"containers"` // how many run it
}

// images counts the containers of ours by their image.
func (c *checker) images() []Image {
	counts := map[string]int{}
	for _, p := range c.injected {
		counts[p.plan.Init.Image]++
		counts[p.plan.Proxy.Image]++
	}
	images := make([]Image, 0, len(counts))
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		images = append(images, Image{name, counts[name]})
	}
	return images
}

// authorities counts the certificates of each authority that a bundle trusts.
func (c *checker) authorities() []Authority {
	list := []Authority{}
	seen := map[string]bool{}
	for _, namespace := range c.distinct {
		additional := certs.ParseDigests(c.bundleObjects[namespace].GetAnnotations()[api.AdditionalAnnotation])
		for _, ca := range c.bundles[namespace].Authorities() {
			fingerprint := svid.Fingerprint(ca)
			if seen[fingerprint] {
				continue
			}
			seen[fingerprint] = true
			a := Authority{Name: cmp.Or(ca.Subject.CommonName, ca.Subject.String()), Fingerprint: fingerprint, Additional: slices.Contains(additional, fingerprint)}
			for _, leaf := range c.leaves {
				if leaf.Issuer != nil && leaf.Issuer.Equal(ca) {
					a.Certificates++
				}
			}
			list = append(list, a)
		}
	}
	return list
}
