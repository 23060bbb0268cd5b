package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// testReport has three repetitions of two peers and of ours.
func testReport() *report {
	r := &report{Machine: "a machine", Date: "2026-01-02", Go: "go1.26", Commit: "abc", Reps: 3, Duration: "3s", Warmup: "1s", Skipped: map[string]string{"stunnel": "no stunnel4 here"}}
	for peer, figures := range map[string][]float64{
		"nginx": {100, 120, 80}, "ghostunnel": {90, 95, 99}, "ours": {150, 130, 140}, "ours-x25519": {110, 100, 105}, "relay-copy": {1000, 1000, 1000},
	} {
		for i, f := range figures {
			r.add(sample{Measure: "connections", Peer: peer, Rep: i, Values: values{"req_s": f}})
			r.add(sample{Measure: "rate", Peer: peer, Rep: i, Values: values{"p50": 1e5 / f}})
			r.add(sample{Measure: "memory", Peer: peer, Rep: i, Values: values{"idle_rss": 12, "kib_conn_0": 15, "conns_0": 1000}})
		}
	}
	r.add(sample{Measure: "connections", Peer: "haproxy", Error: "it\nfell over"})
	return r
}

func TestFigure(t *testing.T) {
	r := testReport()
	if got, want := r.figure("connections", "nginx", "req_s"), (spread{100, 80, 120, 3}); got != want {
		t.Errorf("%+v", got)
	}
	r.add(sample{Measure: "connections", Peer: "nginx", Values: values{"req_s": 140}})
	if got, want := r.figure("connections", "nginx", "req_s"), (spread{110, 80, 140, 4}); got != want {
		t.Errorf("%+v", got)
	}
	if got := r.figure("connections", "haproxy", "req_s"); got.N != 0 {
		t.Errorf("%+v", got)
	}
}

// TestGoals: the best peer is the best of the TLS peers in the direction of the figure, never the plain relay and never
// ourselves.
func TestGoals(t *testing.T) {
	text := testReport().markdown()
	for _, want := range []string{
		"| new connections/s | ≥ 1.3 × best peer | 1.40 × nginx stream | 1.05 × nginx stream |",
		"| p50 at 1,000 req/s | ≤ 1.0 × best peer | 0.71 × nginx stream | 0.95 × nginx stream |",
		"| memory idle, one proxy, MiB | ≤ 10 resident | 12.0 | 12.0 |",
		"| nginx stream | 100 (80.0–120) |", "| HAProxy | failed |", "Failed: connections of haproxy: it fell over",
		"Not measured: stunnel (no stunnel4 here).", "KiB per connection, 1000 idle",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestPlotsAreXML(t *testing.T) {
	folder := t.TempDir()
	shown, err := testReport().plots(folder)
	if err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(folder, "performance-*.svg"))
	if len(files) == 0 || strings.Count(shown, "![") != len(files) {
		t.Fatalf("%d files, shown %q", len(files), shown)
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		d := xml.NewDecoder(f)
		for err == nil {
			_, err = d.Token()
		}
		f.Close()
		if !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// TestDocument: what stands outside the marks stays, and a second run replaces the first.
func TestDocument(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "performance.md")
	if err := testReport().document(folder); err == nil {
		t.Error("no page, and no error")
	}
	if err := os.WriteFile(path, []byte("# before\n"+beginMark+"\nold\n"+endMark+"\nafter\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var texts []string
	for range 2 {
		if err := testReport().document(folder); err != nil {
			t.Fatal(err)
		}
		text, _ := os.ReadFile(path)
		texts = append(texts, string(text))
	}
	if diff := cmp.Diff(texts[0], texts[1]); diff != "" {
		t.Error(diff)
	}
	if !strings.HasPrefix(texts[0], "# before\n"+beginMark) || !strings.HasSuffix(texts[0], endMark+"\nafter\n") || strings.Contains(texts[0], "old") {
		t.Error(texts[0])
	}
}

// TestDocumentation: the page that -docs writes into has its marks.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../docs/performance.md")
	if err != nil || !strings.Contains(string(text), beginMark) || !strings.Contains(string(text), endMark) {
		t.Errorf("docs/performance.md has no marks: %v", err)
	}
}

func TestReportSurvives(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.json")
	if err := testReport().write(path); err != nil {
		t.Fatal(err)
	}
	got, err := readReport(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(testReport().figure("rate", "ours", "p50"), got.figure("rate", "ours", "p50")); diff != "" {
		t.Error(diff)
	}
}

func TestOptions(t *testing.T) {
	o, err := parse([]string{"-quick", "-only", "ours*,nginx", "-duration", "1s", "-idle", "10,20"}, io.Discard)
	if err != nil || o.reps != 1 || o.duration != time.Second || len(o.idle) != 2 {
		t.Errorf("%+v, %v", o, err)
	}
	for name, want := range map[string]bool{"ours": true, "ours-pods": true, "nginx": true, "nginx-64k": false, "direct": false} {
		if chosen(o.only, name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
	for _, bad := range [][]string{{"-idle", "x"}, {"-idle", "0"}, {"-reps", "0"}, {"stray"}, {"-duration", "-1s"}, {"-unknown"}, {"-only", "ours,ngnix"}, {"-measure", "bulk"}} {
		if _, err := parse(bad, io.Discard); err == nil {
			t.Errorf("%v: accepted", bad)
		}
	}
}

func TestPercentiles(t *testing.T) {
	var ns []int64
	for i := range 1000 {
		ns = append(ns, int64(1000-i)*1000)
	}
	if got, want := percentilesOf(ns), (percentiles{501, 901, 991, 1000, 1000}); got != want {
		t.Errorf("%+v", got)
	}
	if got := percentilesOf(nil); got != (percentiles{}) {
		t.Errorf("%+v", got)
	}
}
