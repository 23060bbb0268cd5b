package config_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/config"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

func files(t *testing.T) proxytest.Files {
	t.Helper()
	ca := testca.New(t, proxytest.TrustDomain)
	return proxytest.Workload{CA: ca, Leaf: ca.Issue(t, proxytest.ID("app")), Mesh: proxytest.Mesh(),
		Workload: podplan.Workload{SPIFFEID: proxytest.ID("app")}}.Sealed(t)
}

func TestReadAsPublished(t *testing.T) {
	dir := t.TempDir()
	f := files(t)
	f.Publish(t, dir)
	g, err := config.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if g.Workload.SPIFFEID != proxytest.ID("app") || g.Mesh.TrustDomain != proxytest.TrustDomain || g.PlainKey != nil ||
		string(g.SealedKey) != string(f[api.SealedKeyFile]) || string(g.LeafPEM) != string(f[api.LeafFile]) {
		t.Errorf("got %+v", g)
	}
	f.Publish(t, dir)
	again, err := config.Read(dir)
	if err != nil || again.Digest != g.Digest {
		t.Errorf("the same files have another digest (%v)", err)
	}
	f.With(api.BundleFile, testca.New(t, proxytest.TrustDomain).PEM()).Publish(t, dir)
	if other, err := config.Read(dir); err != nil || other.Digest == g.Digest {
		t.Errorf("other files have the same digest (%v)", err)
	}
}

func TestReadPlainDirectory(t *testing.T) {
	dir := t.TempDir()
	f := files(t)
	f = f.With("tls.key", []byte("plain")).With(api.SealedKeyFile, nil).With(api.IdentityFile, nil)
	for name, content := range f {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g, err := config.Read(dir)
	if err != nil || string(g.PlainKey) != "plain" || g.SealedKey != nil || g.Identity != nil {
		t.Errorf("got %+v, %v", g, err)
	}
}

func TestReadRefuses(t *testing.T) {
	good := files(t)
	cases := map[string]struct {
		files proxytest.Files
		want  string
	}{
		"no leaf":         {good.With(api.LeafFile, nil), api.LeafFile},
		"no key":          {good.With(api.SealedKeyFile, nil), api.PlainKeyFile},
		"no identity":     {good.With(api.IdentityFile, nil), api.IdentityFile},
		"no bundle":       {good.With(api.BundleFile, nil), api.BundleFile},
		"no mesh":         {good.With(api.MeshFile, nil), api.MeshFile},
		"no workload":     {good.With(api.WorkloadFile, nil), api.WorkloadFile},
		"large leaf":      {good.With(api.LeafFile, make([]byte, 65<<10)), "larger than"},
		"large key":       {good.With(api.SealedKeyFile, make([]byte, 33<<10)), "larger than"},
		"broken mesh":     {good.With(api.MeshFile, []byte("kind: Other")), api.MeshFile},
		"broken workload": {good.With(api.WorkloadFile, []byte("{}")), api.WorkloadFile},
	}
	for name, c := range cases {
		dir := t.TempDir()
		c.files.Publish(t, dir)
		if _, err := config.Read(dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
	if _, err := config.Read(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
}

// TestReadWhileSwapped reads while generations follow each other as fast as they can: every read is of one of them.
func TestReadWhileSwapped(t *testing.T) {
	dir := t.TempDir()
	a := files(t)
	b := files(t)
	a.Publish(t, dir)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			for _, f := range []proxytest.Files{b, a} {
				select {
				case <-stop:
					return
				default:
					f.Publish(t, dir)
				}
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	for range 300 {
		g, err := config.Read(dir)
		if err != nil {
			if strings.Contains(err.Error(), "changed 5 times") {
				continue // the test swaps faster than any kubelet
			}
			t.Fatal(err)
		}
		of := a
		if string(g.LeafPEM) == string(b[api.LeafFile]) {
			of = b
		}
		if string(g.LeafPEM) != string(of[api.LeafFile]) || string(g.SealedKey) != string(of[api.SealedKeyFile]) ||
			string(g.BundlePEM) != string(of[api.BundleFile]) {
			t.Fatal("files of two generations are mixed")
		}
	}
}

func TestWatch(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "late")
	ctx, cancel := context.WithCancel(t.Context())
	var calls atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		config.Watch(ctx, dir, config.WatchOptions{Poll: 30 * time.Millisecond, Debounce: time.Millisecond}, func() { calls.Add(1) })
	}()
	next := func(what string) {
		t.Helper()
		for before, deadline := calls.Load(), time.Now().Add(5*time.Second); calls.Load() == before; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("no call: %s", what)
			}
		}
	}
	next("at the start or by polling, without a directory")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	next("by polling")
	cancel()
	<-done
}

func TestWatchEvents(t *testing.T) {
	dir := t.TempDir()
	f := files(t)
	f.Publish(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	calls := make(chan struct{}, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		config.Watch(ctx, dir, config.WatchOptions{Poll: time.Hour, Debounce: 5 * time.Millisecond}, func() { calls <- struct{}{} })
	}()
	for _, what := range []string{"at the start", "after a swap"} {
		select {
		case <-calls:
		case <-time.After(5 * time.Second):
			t.Fatalf("no call %s: polling is off, so the event was missed", what)
		}
		f.Publish(t, dir)
	}
	cancel()
	<-done
}
