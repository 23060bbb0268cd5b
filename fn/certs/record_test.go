package certs_test

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/internal/api"
)

// TestRecord: what a policy writes is what is read back, and the record says when the leaf is due without the policy.
func TestRecord(t *testing.T) {
	p := policy("ECDSA-P256")
	for _, p.RenewBefore = range []time.Duration{p.Validity / 2, 48 * time.Hour, time.Minute} {
		leaf := issue(t, p, certs.Request{ID: web}, roll(t, p, nil, start)[0], start)
		record := p.Record(leaf.Certificate, "digest")
		if got := certs.ParseRecord(record.Annotations()); got != record {
			t.Errorf("read %+v, wrote %+v", got, record)
		}
		if at := leaf.Certificate.NotAfter.Add(-p.RenewBefore); !record.RenewAfter.Equal(at) || !record.Due(leaf.Certificate, 0).Equal(at) {
			t.Errorf("renewBefore %s: due after %s and %s, want %s", p.RenewBefore, record.RenewAfter, record.Due(leaf.Certificate, 0), at)
		}
	}
}

func TestDue(t *testing.T) {
	at := func(hours int) time.Time { return start.Add(time.Duration(hours) * time.Hour) }
	leaf := &x509.Certificate{NotBefore: at(0), NotAfter: at(100)}
	for name, test := range map[string]struct {
		renewAfter  time.Time
		renewBefore time.Duration
		want        time.Time
	}{
		"the config decides":                  {at(70), 10 * time.Hour, at(90)},
		"never before half of the life":       {at(70), 60 * time.Hour, at(50)},
		"without a config, the Secret says":   {at(70), 0, at(70)},
		"neither, as of an earlier release":   {time.Time{}, 0, at(50)},
		"a time that no render writes, late":  {at(101), 0, at(50)},
		"a time that no render writes, early": {at(-1), 0, at(50)},
	} {
		if got := (certs.Record{RenewAfter: test.renewAfter}).Due(leaf, test.renewBefore); !got.Equal(test.want) {
			t.Errorf("%s: due after %s, want %s", name, got, test.want)
		}
	}
}

// FuzzRecord: whatever annotations say, what is read is what is written, and what is written reads the same.
func FuzzRecord(f *testing.F) {
	f.Add("spiffe://a/b", "digest", "2026-01-29T00:00:00Z")
	f.Add("", "", "2026-01-29T00:00:00.5+01:00")
	f.Add("", "", "0001-01-01T00:00:00Z")
	f.Fuzz(func(t *testing.T, id, digest, at string) {
		record := certs.ParseRecord(map[string]string{api.IdentityAnnotation: id, api.PublicKeyAnnotation: digest, api.NotAfterAnnotation: at, api.RenewAfterAnnotation: at})
		if got := certs.ParseRecord(record.Annotations()); got != record {
			t.Errorf("read %+v, wrote %+v", got, record)
		}
	})
}
