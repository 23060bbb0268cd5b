package verify

import (
	"time"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/svid"
)

// federationWarning is how long before the last authority of a federated trust domain expires it is said: its new
// bundle has to come from others.
const federationWarning = 30 * 24 * time.Hour

// meshMap is a mesh map and where it stands.
type meshMap struct {
	object report.Object
	mesh   *meshmap.Map
}

// federation checks the bundles of federated trust domains in every mesh map; what all maps say alike is said once.
func (c *checker) federation() {
	said := map[string]bool{}
	for _, m := range c.meshMaps {
		bundles := []*svid.Bundle{}
		if own := c.bundles[manifest.EffectiveNamespace(m.object)]; own != nil {
			bundles = append(bundles, own)
		}
		for _, f := range m.mesh.Federation {
			bundle, err := svid.ParseFederation(f)
			if err != nil {
				c.report.Error(m.object, report.Data(api.MeshFile), "federation with %q: %v", f.TrustDomain, err)
				continue
			}
			bundles = append(bundles, bundle)
			if key := f.TrustDomain + " " + f.Bundle; !said[key] {
				said[key] = true
				c.federationExpiry(m.object, bundle)
			}
		}
		if err := svid.Disjoint(bundles...); err != nil {
			c.report.Error(m.object, report.Data(api.MeshFile), "%v", err)
		}
	}
}

func (c *checker) federationExpiry(object report.Object, bundle *svid.Bundle) {
	const way = "get the present bundle from the other side (`meshless bundle` prints it there) and put it into spec.federation"
	until, now := bundle.Until(), c.options.Now
	switch at := until.UTC().Format(time.RFC3339); {
	case now.After(until):
		c.report.Error(object, report.Data(api.MeshFile), "the last authority of the federated trust domain %q expired at %s: %s", bundle.TrustDomain().Name(), at, way)
	case c.options.EveryWorkload && until.Sub(now) < federationWarning:
		c.report.Warn(object, report.Data(api.MeshFile), "the last authority of the federated trust domain %q expires at %s: %s", bundle.TrustDomain().Name(), at, way)
	}
}
