package pipeline

import (
	"time"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/seal"
	"github.com/meshless-dev/meshless/internal/api"
)

// unlock opens the key of the Active authority, and tells whether leaves can be issued. Without an identity, leaves
// that are merely due are left for a render that has one.
func (c *certifier) unlock(authorities certs.Authorities) bool {
	active := authorities.In(v1alpha1.SlotActive)
	if active == nil {
		c.waitForAuthority(authorities)
		return false
	}
	if active.Key != nil {
		return true
	}
	object := report.Object{APIVersion: api.APIVersion, Kind: v1alpha1.KindCertificateAuthority, Name: c.model.State.Authority.GetName()}
	identities, err := c.options.CAIdentity()
	if err != nil {
		c.report.Error(object, "", "%v", err)
		return false
	}
	if len(identities) == 0 {
		c.askForIdentity(object)
		return false
	}
	key, err := seal.Open(active.SealedKey, identities)
	if err == nil {
		err = active.Unlock(key)
		clear(key)
	}
	if err == nil {
		c.warnNext(object, authorities, identities)
	}
	if err != nil && !active.Replaced.IsZero() { // its identity may be what is lost
		c.waitForAuthority(authorities)
		return false
	}
	if err != nil {
		c.report.Error(object, "spec.authorities", "the sealed key of the Active authority %v; give the age identity whose recipient was in spec.certificates.ca.recipients "+
			"when the authority was made", err)
	}
	return err == nil
}

// waitForAuthority reports what cannot be issued yet, since the keys of the old authorities are lost or cannot be
// opened any more, and the new one is not known everywhere.
func (c *certifier) waitForAuthority(authorities certs.Authorities) {
	_, at := authorities.NextStep()
	way := "Leave the change out until then; a key that leaked meanwhile is given away only by a new CA (delete the folder mtls, and expect an outage until every pod has synced)"
	if active := authorities.In(v1alpha1.SlotActive); active != nil && active.SealedKey != "" {
		way = "Give the identity of the old CA beside the new one (both in MESHLESS_CA_IDENTITY, one a line), or leave the change out until then"
	}
	for _, w := range c.model.Workloads {
		switch reason := c.reasons[w]; {
		case reason.None():
		case reason.Due:
			c.report.Warn(w.Object, "", "the certificate is due for renewal: %s. It is renewed when the new authority signs, from %s on", reason.Text, at.UTC().Format(time.RFC3339))
		default:
			c.report.Error(w.Object, "", "the certificate must be issued anew: %s; but no authority signs before %s, since the CA is being replaced and every node must know the new one first. %s",
				reason.Text, at.UTC().Format(time.RFC3339), way)
		}
	}
}

func (c *certifier) askForIdentity(object report.Object) {
	for _, w := range c.model.Workloads {
		const way = "Give the CA's age identity in MESHLESS_CA_IDENTITY or MESHLESS_CA_IDENTITY_FILE (`kpt fn render` passes no environment: use `meshless issue` or `kpt fn eval`)"
		switch reason := c.reasons[w]; {
		case reason.None():
		case reason.Due:
			c.report.Warn(w.Object, "", "the certificate is due for renewal: %s. %s", reason.Text, way)
		default:
			c.report.Error(w.Object, "", "the certificate must be issued anew: %s; but the key of %s cannot be opened. %s", reason.Text, object, way)
		}
	}
}
