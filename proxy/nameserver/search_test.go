package nameserver

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestAttackSearch: a resolver that gets SERVFAIL for a name of the mesh goes on with the rest of its search list. A
// domain of the node that answers for everything gets no connection of the app.
func TestAttackSearch(t *testing.T) {
	for name, shorts := range map[string][]string{
		"web.prod.svc.cluster.local.":     {"web.", "web.corp.example.", "WEB.Prod.corp.example.", "web.prod.cluster.local.", "web.prod.svc.corp.example."},
		"db.data.svc.cluster.local.":      {"db.data.corp.example.", "db.data."},
		"db-0.db.data.svc.cluster.local.": {"db-0.db.data.corp.example."},
		"unknown.prod.svc.cluster.local.": {"unknown.corp.example."},
	} {
		for _, short := range append(shorts, "db.corp.example.", "web-2.corp.example.", "www.web.corp.example.") {
			f := newFixture(t)
			now := time.Unix(1_800_000_000, 0)
			f.o.Now, f.leadErr = func() time.Time { return now }, errors.New("taken")
			f.zone.names[strings.ToLower(short)] = []string{"6.6.6.6"}
			want := "6.6.6.6"
			if got := said(f.query(t, short, dns.TypeA)); got != want {
				t.Errorf("%s: %q", short, got)
			}
			if got := said(f.query(t, name, dns.TypeA)); got != "SERVFAIL" {
				t.Errorf("%s: %q", name, got)
			}
			if slices.Contains(shorts, short) {
				want = "SERVFAIL"
			}
			if got := said(f.query(t, short, dns.TypeA)); got != want {
				t.Errorf("%s after %s: %q, want %q", short, name, got, want)
			}
			now = now.Add(refusedFor)
			if got := said(f.query(t, short, dns.TypeA)); got != "6.6.6.6" {
				t.Errorf("%s later: %q", short, got)
			}
		}
	}
	f := newFixture(t)
	for i := range maxShort {
		f.short.add(f.mesh, fmt.Sprintf("%d.prod.svc.cluster.local.", i), time.Now())
	}
	if len(f.short.until) > maxShort+3 {
		t.Errorf("%d are remembered", len(f.short.until))
	}
}
