package certs

import (
	"crypto/x509"
	"strings"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

// Record is what the annotations of a Secret say of the leaf in it, so that it can be found and evaluated without the
// config and without a key. Times are whole seconds in UTC.
type Record struct {
	ID         string    // SPIFFE ID
	KeyDigest  string    // of the public key that the sealed key belongs to, as svid.KeyDigest returns it
	Recipients string    // digest of those to whom the key is sealed
	NotAfter   time.Time // of the leaf, for people
	RenewAfter time.Time // when the leaf is due; zero in Secrets of releases that did not write it
}

// Record is the record of a leaf that was made by this profile.
func (p Profile) Record(leaf *x509.Certificate, recipients string) Record {
	return Record{ID: leaf.URIs[0].String(), KeyDigest: svid.KeyDigest(leaf), Recipients: recipients, NotAfter: leaf.NotAfter.UTC(),
		RenewAfter: Record{}.Due(leaf, p.RenewBefore).UTC()}
}

// Annotations are what ParseRecord reads.
func (r Record) Annotations() map[string]string {
	annotations := map[string]string{}
	for key, value := range map[string]string{
		api.IdentityAnnotation: r.ID, api.PublicKeyAnnotation: r.KeyDigest, api.RecipientsAnnotation: r.Recipients,
		api.NotAfterAnnotation: timeText(r.NotAfter), api.RenewAfterAnnotation: timeText(r.RenewAfter),
	} {
		if value != "" {
			annotations[key] = value
		}
	}
	return annotations
}

// ParseRecord reads annotations. A time that cannot be read is zero: nothing but advice depends on one.
func ParseRecord(annotations map[string]string) Record {
	return Record{ID: annotations[api.IdentityAnnotation], KeyDigest: annotations[api.PublicKeyAnnotation], Recipients: annotations[api.RecipientsAnnotation],
		NotAfter: parseTime(annotations[api.NotAfterAnnotation]), RenewAfter: parseTime(annotations[api.RenewAfterAnnotation])}
}

// Due is the time after which a leaf is due for renewal; issue, verify and status ask nobody else. The config's
// renewBefore decides where it is known. Else, with a renewBefore of zero, the record does, and for Secrets of releases
// that did not write it half of the leaf's life. Half of its life is left at most, so that a leaf that was cut short is
// not due as soon as it is made.
func (r Record) Due(leaf *x509.Certificate, renewBefore time.Duration) time.Time {
	half := leaf.NotAfter.Sub(leaf.NotBefore) / 2
	switch {
	case renewBefore > 0:
		return leaf.NotAfter.Add(-min(renewBefore, half))
	case r.RenewAfter.After(leaf.NotBefore) && r.RenewAfter.Before(leaf.NotAfter):
		return r.RenewAfter
	}
	return leaf.NotAfter.Add(-half)
}

// timeText writes a time of the state; empty for the zero time.
func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return stampText(t)
}

// parseTime reads what timeText wrote, and nothing else.
func parseTime(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || stampText(t) != text {
		return time.Time{}
	}
	return t.UTC()
}

// ParseDigests reads what FormatDigests writes: the value of api.RevokedAnnotation or of api.AdditionalAnnotation. An
// annotation that is missing or empty gives nil. It does not judge what the digests are.
func ParseDigests(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// FormatDigests is a list of digests as an annotation of a bundle holds it, separated by commas.
func FormatDigests(digests []string) string { return strings.Join(digests, ",") }
