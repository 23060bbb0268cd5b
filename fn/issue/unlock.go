package issue

import (
	"time"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/seal"
	"github.com/meshless-dev/meshless/internal/api"
)

// unlock opens the key of the Active authority, and tells whether leaves can be issued. Without an identity, leaves
// that are merely due are left for a render that has one.
func (i *issuer) unlock(p *plan) bool {
	authorities := p.Authorities
	active := authorities.In(v1alpha1.SlotActive)
	if active == nil {
		i.waitForAuthority(p)
		return false
	}
	if active.Key != nil {
		return true
	}
	object := report.Object{APIVersion: api.APIVersion, Kind: v1alpha1.KindCertificateAuthority, Name: i.model.State.Authority.GetName()}
	identities, err := i.CAIdentity()
	if err != nil {
		i.report.Error(object, "", "%v", err)
		return false
	}
	if len(identities) == 0 {
		i.askForIdentity(p, object)
		return false
	}
	key, err := seal.Open(active.SealedKey, identities)
	if err == nil {
		err = active.Unlock(key)
		clear(key)
	}
	if err == nil {
		i.warnNext(object, authorities, identities)
	}
	if err != nil && !active.Replaced.IsZero() { // its identity may be what is lost
		i.waitForAuthority(p)
		return false
	}
	if err != nil {
		i.report.Error(object, "spec.authorities", "the sealed key of the Active authority %v; give the age identity whose recipient was in spec.certificates.ca.recipients "+
			"when the authority was made", err)
	}
	return err == nil
}

// waitForAuthority reports what cannot be issued yet, since the keys of the old authorities are lost or cannot be
// opened any more, and the new one is not known everywhere.
func (i *issuer) waitForAuthority(p *plan) {
	_, at := p.Authorities.NextStep()
	from := at.UTC().Format(time.RFC3339)
	way := "Leave the change out until then; a key that leaked meanwhile is given away only by a new CA (delete the folder mtls, and expect an outage until every pod has synced)"
	if active := p.Authorities.In(v1alpha1.SlotActive); active != nil && active.SealedKey != "" {
		way = "Give the identity of the old CA beside the new one (both in MESHLESS_CA_IDENTITY, one a line), or leave the change out until then"
	}
	i.postpone(p.due, "It is renewed when the new authority signs, from "+from+" on",
		"but no authority signs before "+from+", since the CA is being replaced and every node must know the new one first. "+way)
}

func (i *issuer) askForIdentity(p *plan, object report.Object) {
	const way = "Give the CA's age identity in MESHLESS_CA_IDENTITY or MESHLESS_CA_IDENTITY_FILE (`kpt fn render` passes no environment: use `meshless issue` or `kpt fn eval`)"
	i.postpone(p.due, way, "but the key of "+object.String()+" cannot be opened. "+way)
}
