package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// values are figures by the keys of report.go.
type values map[string]float64

// measure is one thing to be measured; each repetition starts the peer anew.
type measure struct {
	name  string
	peers func(peer) bool // whom it makes sense for
	run   func(*bench, peer, string) (values, error)
	most  int // repetitions, of what takes long and does not vary; 0 is as many as of the others
}

func everyone(peer) bool    { return true }
func proxied(p peer) bool   { return p.start != nil }
func relaying(p peer) bool  { return !p.pods && (!p.tls || p.name == "ours") }
func reloading(p peer) bool { return p.reload != nil }

var allMeasures = []measure{
	{"bulk-up-1", everyone, bulk(loadUp, 1, false), 0},
	{"bulk-down-1", everyone, bulk(loadDown, 1, false), 0},
	{"bulk-up-8", everyone, bulk(loadUp, 8, false), 0},
	{"bulk-down-8", everyone, bulk(loadDown, 8, false), 0},
	{"connections", everyone, exchange(loadSpec{Kind: loadFresh, Connections: 8}), 0},
	{"rate", everyone, exchange(loadSpec{Kind: loadExchange, Connections: 16, Rate: 1000}), 0},
	{"closed-1", everyone, exchange(loadSpec{Kind: loadExchange, Connections: 1}), 0},
	{"closed-64", everyone, exchange(loadSpec{Kind: loadExchange, Connections: 64}), 0},
	{"memory", proxied, idleMemory, 2},
	{"start", proxied, startUp, 0},
	{"reload", reloading, reloads, 0},
	{"pass-up-1", relaying, bulk(loadUp, 1, true), 0},
	{"pass-down-1", relaying, bulk(loadDown, 1, true), 0},
	{"pass-up-8", relaying, bulk(loadUp, 8, true), 0},
	{"pass-down-8", relaying, bulk(loadDown, 8, true), 0},
}

// window is what a load cost the proxies between its begin and its end.
type window struct {
	loadResult
	cpu  time.Duration
	sunk int64 // bytes that the backend dropped
}

// measureLoad runs a load through the pair. With a profile it takes one of each of our proxies meanwhile.
func (r *pair) measureLoad(spec loadSpec, profile string) (w window, err error) {
	spec.Target, spec.Warmup, spec.Duration = r.entry, r.bench.warmup, r.bench.duration
	var profiles sync.WaitGroup
	var profileErr error
	before := r.members() // found now, since looking for them would disturb what is measured
	w.loadResult, err = r.generator.generate(spec, r.dir, func() (err error) {
		profiles.Go(func() { profileErr = r.profile(profile) })
		w.cpu = -cpu(before)
		sunk, err := r.backend.sunk()
		w.sunk = -sunk
		return err
	}, func() (err error) {
		sunk, err := r.backend.sunk()
		w.sunk += sunk
		// first, as with looking for more the window would go on
		w.cpu += cpu(before)
		// of a reload
		w.cpu += cpu(slices.DeleteFunc(r.members(), func(pid int) bool { return slices.Contains(before, pid) }))
		return err
	})
	profiles.Wait()
	return w, errors.Join(err, profileErr)
}

// members are the processes of both sides.
func (r *pair) members() (pids []int) {
	for _, p := range r.processes() {
		pids = append(pids, p.members()...)
	}
	return pids
}

// profile takes a CPU profile of each of our proxies, where one is asked for.
func (r *pair) profile(name string) error {
	if r.bench.profiles == "" || !r.peer.ours || r.peer.pods {
		return nil
	}
	var both sync.WaitGroup
	var errs [2]error
	for i, s := range []side{r.clientSide, r.serverSide} {
		if s.bench == nil {
			continue
		}
		both.Go(func() {
			errs[i] = fetchProfile(s, r.bench.duration, filepath.Join(r.bench.profiles, name+"-"+s.name()+".pprof"))
		})
	}
	both.Wait()
	return errors.Join(errs[:]...)
}

func fetchProfile(s side, d time.Duration, path string) error {
	seconds := max(1, int(d.Seconds()))
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(seconds+10)*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", s.admin, seconds), nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("profile: %s: %s", response.Status, text)
	}
	return errors.Join(err, os.WriteFile(path, text, 0o644))
}

func bulk(kind string, connections int, passThrough bool) func(*bench, peer, string) (values, error) {
	return func(b *bench, p peer, name string) (values, error) {
		r, err := b.startPair(p, want{passThrough: passThrough})
		if err != nil {
			return nil, err
		}
		defer r.stop()
		w, err := r.measureLoad(loadSpec{Kind: kind, Connections: connections}, name)
		if err != nil {
			return nil, err
		}
		megabytes := float64(w.Bytes) / 1e6
		if kind == loadUp {
			megabytes = float64(w.sunk) / 1e6
		}
		v := values{"mb_s": megabytes / w.Seconds}
		if proxied(p) {
			v["mb_cpu"] = megabytes / w.cpu.Seconds()
		}
		return v, nil
	}
}

func exchange(spec loadSpec) func(*bench, peer, string) (values, error) {
	return func(b *bench, p peer, name string) (values, error) {
		r, err := b.startPair(p, want{})
		if err != nil {
			return nil, err
		}
		defer r.stop()
		w, err := r.measureLoad(spec, name)
		if err == nil && (w.Failures > 0 || w.Requests == 0) {
			err = fmt.Errorf("%d messages answered, %d failures: %s", w.Requests, w.Failures, w.Failure)
		}
		if err != nil {
			return nil, err
		}
		v := values{"req_s": float64(w.Requests) / w.Seconds, "p50": w.Latencies.P50, "p99": w.Latencies.P99, "p999": w.Latencies.P999}
		if proxied(p) {
			v["cpu_1000"] = w.cpu.Seconds() * 1e3 / float64(w.Requests) * 1e3
		}
		return v, nil
	}
}

// idleMemory is that of one proxy, the mean of both sides: after one message, and with connections on which nothing has
// happened since their first one.
func idleMemory(b *bench, p peer, _ string) (values, error) {
	v := values{}
	for i, n := range b.idle {
		if n = min(n, b.connections); p.most > 0 {
			n = min(n, p.most)
		}
		before, after, err := b.holdIdle(p, n)
		if err != nil {
			return v, fmt.Errorf("%d idle connections: %w", n, err)
		}
		if i == 0 { // nginx is larger the more connections it must have room for
			v["idle_rss"], v["idle_pss"], v["idle_anon"] = before.RSS/1024, before.PSS/1024, before.Anonymous/1024
		}
		// Pages of files are of the program, however many connections there are.
		v[fmt.Sprint("kib_conn_", i)], v[fmt.Sprint("conns_", i)] = (after.Anonymous-before.Anonymous)/float64(n), float64(n)
	}
	return v, nil
}

// holdIdle is the memory of one proxy without connections and with n.
func (b *bench) holdIdle(p peer, n int) (before, after footprint, err error) {
	r, err := b.startPair(p, want{connections: n})
	if err != nil {
		return before, after, err
	}
	defer r.stop()
	time.Sleep(b.settle)
	before = r.footprint()
	_, err = r.generator.generate(loadSpec{Target: r.entry, Kind: loadIdle, Connections: n}, r.dir, func() error {
		time.Sleep(b.settle)
		after = r.footprint()
		return nil
	}, func() error { return nil })
	return before, after, err
}

func (r *pair) footprint() (mean footprint) {
	n := float64(len(r.processes()))
	for _, p := range r.processes() {
		m := p.memory()
		mean.RSS, mean.PSS, mean.Anonymous = mean.RSS+m.RSS/n, mean.PSS+m.PSS/n, mean.Anonymous+m.Anonymous/n
	}
	return mean
}

// startUp is from the start of the client side's process to the first answer through it, the server side being there:
// the median of five.
func startUp(b *bench, p peer, _ string) (values, error) {
	r, err := b.startPair(p, want{})
	if err != nil {
		return nil, err
	}
	defer r.stop()
	var took []float64
	for range 5 {
		r.client.stop()
		r.client = nil
		if !p.pods {
			r.clientSide.listen, r.clientSide.admin = b.loopback(), b.loopback()
			r.entry = r.clientSide.listen
		}
		c, err := p.start(r.clientSide) // files are written, and rules set again, before the clock runs
		if err != nil {
			return nil, err
		}
		began := time.Now()
		if r.client, err = r.clientSide.where.launch(c, r.clientSide.dir); err != nil {
			return nil, err
		}
		if err := r.awaitAnswer(); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began).Seconds()*1e3)
	}
	slices.Sort(took)
	return values{"ms": took[2]}, nil
}

// reloads renews the files of both sides every half second while messages come at a fixed rate on connections that
// stay, and while new connections are made.
func reloads(b *bench, p peer, name string) (values, error) {
	r, err := b.startPair(p, want{})
	if err != nil {
		return nil, err
	}
	defer r.stop()
	stop := make(chan struct{})
	var background sync.WaitGroup
	var reloadErr, freshErr error
	var fresh loadResult
	background.Go(func() { reloadErr = r.reloadUntil(stop) })
	background.Go(func() {
		spec := loadSpec{Target: r.entry, Kind: loadFresh, Connections: 1, Pause: 20 * time.Millisecond, Duration: b.duration}
		nothing := func() error { return nil }
		fresh, freshErr = r.generator.generate(spec, r.dir, nothing, nothing)
	})
	w, err := r.measureLoad(loadSpec{Kind: loadExchange, Connections: 16, Rate: 1000}, name)
	close(stop)
	background.Wait()
	if err := errors.Join(err, reloadErr, freshErr); err != nil {
		return nil, err
	}
	return values{"p50": w.Latencies.P50, "p99": w.Latencies.P99, "p999": w.Latencies.P999, "fresh_p99": fresh.Latencies.P99,
		"cpu_1000": w.cpu.Seconds() * 1e3 / float64(max(1, w.Requests)) * 1e3, "lost": float64(w.Failures + fresh.Failures)}, nil
}

func (r *pair) reloadUntil(stop <-chan struct{}) error {
	ticks := time.NewTicker(500 * time.Millisecond)
	defer ticks.Stop()
	for {
		if err := errors.Join(r.reload(r.clientSide, r.client), r.reload(r.serverSide, r.server)); err != nil {
			return err
		}
		select {
		case <-ticks.C:
		case <-stop:
			return nil
		}
	}
}
