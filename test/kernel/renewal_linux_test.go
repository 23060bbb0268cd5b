package kernel

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/test/app/load"
	"github.com/meshless-dev/meshless/test/lab"
)

// testRenewal renders again, now that every leaf is due and another authority signs, and swaps the volumes as the
// kubelet does, one pod after the other, under requests all the while.
func (r *running) testRenewal(t *testing.T) {
	serving := map[*lab.Pod]uint16{r.db: 5432, r.api: 8080, r.web: 8080}
	before, processes := map[*lab.Pod]*x509.Certificate{}, r.processes()
	for p, port := range serving {
		before[p] = servedLeaf(t, r.out, netip.AddrPortFrom(p.IP4, port))
	}
	r.shop.Issue(t, time.Now())
	renewed := r.render(t)
	if diff := cmp.Diff(r.objects.Workloads, renewed.Workloads); diff != "" {
		t.Errorf("renewal changes workloads, so that every pod would restart:\n%s", diff)
	}
	ctx, stop := context.WithCancel(t.Context())
	asked := r.keepAsking(ctx)
	if err := r.Apply(renewed); err != nil {
		t.Fatal(err)
	}
	for p, port := range serving { // in any order: every mixture of old and new must work
		if err := p.Sync(); err != nil {
			t.Fatal(err)
		}
		after := awaitOther(t, before[p], func() *x509.Certificate { return servedLeaf(t, r.out, netip.AddrPortFrom(p.IP4, port)) })
		if before[p].URIs[0].String() != after.URIs[0].String() || bytes.Equal(before[p].AuthorityKeyId, after.AuthorityKeyId) {
			t.Errorf("%s: leaf of %s by %x became leaf of %s by %x, want the same identity by another authority",
				p.Name, before[p].URIs[0], before[p].AuthorityKeyId, after.URIs[0], after.AuthorityKeyId)
		}
		asked.awaitMore(t, 100)
	}
	stop()
	asked.done.Wait()
	if s := asked.Stats(false); s.Failed > 0 {
		t.Errorf("requests failed: %s", s)
	}
	if diff := cmp.Diff(processes, r.processes()); diff != "" {
		t.Errorf("processes restarted:\n%s", diff)
	}
	t.Logf("%d requests answered", asked.Stats(false).Answered())
	r.objects = renewed
}

// asking is requests that run until its context ends.
type asking struct {
	load.Ledger
	done sync.WaitGroup
}

// keepAsking asks web, which asks api, which asks db, from two clients without a pause, over both families.
func (r *running) keepAsking(ctx context.Context) *asking {
	a := &asking{}
	for _, family := range []int{4, 6} {
		url := r.webURL(family)
		a.done.Go(func() {
			for ctx.Err() == nil {
				started := time.Now()
				a.Record(ask(r.out.HTTP(), url), false, time.Since(started))
			}
		})
	}
	return a
}

func ask(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return err
}

// awaitMore waits until n more requests have been answered.
func (a *asking) awaitMore(t *testing.T, n int) {
	t.Helper()
	goal := a.Stats(false).Answered() + n
	for deadline := time.Now().Add(20 * time.Second); a.Stats(false).Answered() < goal; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("want %d requests answered: %s", goal, a.Stats(false))
		}
	}
}

// awaitOther waits until a leaf differs from the old one; the proxy watches its files, and polls them where that fails.
func awaitOther(t *testing.T, old *x509.Certificate, served func() *x509.Certificate) *x509.Certificate {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if leaf := served(); leaf.SerialNumber.Cmp(old.SerialNumber) != 0 {
			return leaf
		}
		if time.Now().After(deadline) {
			t.Fatalf("still serves certificate %x a minute after the swap", old.SerialNumber)
		}
	}
}

// servedLeaf is the leaf that a server shows, whether or not it then lets the client in.
func servedLeaf(t *testing.T, from *lab.Pod, at netip.AddrPort) (leaf *x509.Certificate) {
	t.Helper()
	config := client()
	config.VerifyConnection = func(s tls.ConnectionState) error {
		leaf = s.PeerCertificates[0]
		return nil
	}
	speak(t, from, at, config, "") // refused at the end; the certificate came before that
	if leaf == nil {
		t.Fatalf("%s shows no certificate", at)
	}
	return leaf
}

// processes are the process ids of the shop's containers.
func (r *running) processes() map[string]int {
	ids := map[string]int{}
	for _, p := range []*lab.Pod{r.db, r.api, r.web} {
		for _, name := range []string{"meshless-proxy", "db", "api", "web"} {
			if c := p.Container(name); c != nil && c.Running() {
				ids[p.Name+"/"+name] = c.PID()
			}
		}
	}
	return ids
}
