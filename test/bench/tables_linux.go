package main

import (
	"cmp"
	"fmt"
	"strings"
)

// column is one figure of one measure.
type column struct {
	measure, key, header string
	lower                bool // is better
}

// table is columns side by side, one row per peer.
type table struct {
	title, note string
	columns     []column
}

var allTables = []table{
	{"Bulk, MB/s", "One or eight connections, to the backend (up) and from it (down).", []column{
		{"bulk-up-1", "mb_s", "up, 1", false}, {"bulk-down-1", "mb_s", "down, 1", false}, {"bulk-up-8", "mb_s", "up, 8", false}, {"bulk-down-8", "mb_s", "down, 8", false}}},
	{"Bulk, MB per CPU second of both proxies", "", []column{
		{"bulk-up-1", "mb_cpu", "up, 1", false}, {"bulk-down-1", "mb_cpu", "down, 1", false}, {"bulk-up-8", "mb_cpu", "up, 8", false}, {"bulk-down-8", "mb_cpu", "down, 8", false}}},
	{"New connections", "Eight workers, each: connect, 128 bytes there and back, close.", []column{
		{"connections", "req_s", "per second", false}, {"connections", "cpu_1000", "CPU ms per 1,000", true},
		{"connections", "p50", "p50 µs", true}, {"connections", "p99", "p99 µs", true}}},
	{"Latency at 1,000 requests/s", "128 bytes there and back, on 16 connections, from when each was due.", []column{
		{"rate", "p50", "p50 µs", true}, {"rate", "p99", "p99 µs", true}, {"rate", "p999", "p99.9 µs", true}, {"rate", "cpu_1000", "CPU ms per 1,000", true}}},
	{"Latency, closed loop, 1 connection", "", []column{
		{"closed-1", "req_s", "requests/s", false}, {"closed-1", "p50", "p50 µs", true}, {"closed-1", "p99", "p99 µs", true}, {"closed-1", "cpu_1000", "CPU ms per 1,000", true}}},
	{"Latency, closed loop, 64 connections", "", []column{
		{"closed-64", "req_s", "requests/s", false}, {"closed-64", "p50", "p50 µs", true}, {"closed-64", "p99", "p99 µs", true}, {"closed-64", "cpu_1000", "CPU ms per 1,000", true}}},
	{"Memory of one proxy", "Mean of both sides, all processes of each. Per connection: what anonymous memory grew by.", []column{
		{"memory", "idle_rss", "idle, RSS MiB", true}, {"memory", "idle_pss", "idle, PSS MiB", true}, {"memory", "idle_anon", "idle, anonymous MiB", true},
		{"memory", "kib_conn_0", "KiB per idle connection, few", true}, {"memory", "kib_conn_1", "KiB per idle connection, many", true}}},
	{"Start to first answer", "From the start of the client side's process; the server side is there.", []column{{"start", "ms", "ms", true}}},
	{"Reload", "New certificates on both sides every half second, at 1,000 requests/s on connections that stay, and with new connections beside them.", []column{
		{"reload", "p50", "p50 µs", true}, {"reload", "p99", "p99 µs", true}, {"reload", "fresh_p99", "new connection, p99 µs", true},
		{"reload", "cpu_1000", "CPU ms per 1,000", true},
		{"reload", "lost", "messages or connections lost", true}}},
	{"Pass-through, MB/s", "One hop in plaintext, to a destination outside the mesh.", []column{
		{"pass-up-1", "mb_s", "up, 1", false}, {"pass-down-1", "mb_s", "down, 1", false}, {"pass-up-8", "mb_s", "up, 8", false}, {"pass-down-8", "mb_s", "down, 8", false}}},
	{"Pass-through, MB per CPU second", "", []column{
		{"pass-up-1", "mb_cpu", "up, 1", false}, {"pass-down-1", "mb_cpu", "down, 1", false}, {"pass-up-8", "mb_cpu", "up, 8", false}, {"pass-down-8", "mb_cpu", "down, 8", false}}},
}

// goal is a figure that is held against the best of others, or against a bound.
type goal struct {
	title, want string
	columns     []column // all must reach it; the worst counts
	against     string   // "peers": the best of the TLS peers; else the name of a peer, or "" for a bound
	ours        []string // who of ours is judged
}

var both = []string{"ours", "ours-x25519"}

var allGoals = []goal{
	{"bulk MB per CPU second", "≥ 1.15 × best peer", allTables[1].columns, "peers", both},
	{"bulk MB/s, 8 connections", "≥ 1.1 × best peer", allTables[0].columns[2:], "peers", both},
	{"new connections/s", "≥ 1.3 × best peer", allTables[2].columns[:1], "peers", both},
	{"p50 at 1,000 req/s", "≤ 1.0 × best peer", allTables[3].columns[:1], "peers", both},
	{"p99 at 1,000 req/s", "≤ 1.0 × best peer", allTables[3].columns[1:2], "peers", both},
	{"CPU at 1,000 req/s", "≤ 1.0 × best peer", allTables[3].columns[3:], "peers", both},
	{"memory idle, one proxy, MiB", "≤ 10 resident", allTables[6].columns[:1], "", both},
	{"memory per idle connection, KiB", "≤ 16", allTables[6].columns[3:], "", both},
	{"pass-through, 8 connections", "≥ 0.95 × splicing relay", allTables[9].columns[2:], "relay-splice", both[:1]},
	{"start to first answer, ms", "≤ 50 to ready", allTables[7].columns, "", both},
}

// markdown is the whole report.
func (r *report) markdown() string {
	var out strings.Builder
	fmt.Fprintf(&out, "\n%s; load average before the run %s. %s, Go %s, proxy at %s. %d repetitions, %s each after %s; median (least–most).\n\n",
		r.Machine, number(r.Load), r.Date, strings.TrimPrefix(r.Go, "go"), r.Commit, r.Reps, r.Duration, r.Warmup)
	r.goals(&out)
	for _, t := range allTables {
		r.table(&out, t)
	}
	r.peers(&out)
	r.failures(&out)
	return out.String()
}

// peers is who was measured, as it was seen to work.
func (r *report) peers(out *strings.Builder) {
	out.WriteString("### Who was measured\n\n| | version | TLS, as negotiated with the server side | |\n|---|---|---|---|\n")
	for _, p := range allPeers {
		c, ok := r.Checks[p.name]
		if !ok {
			continue
		}
		version, seen := cmp.Or(r.Versions[p.program], "–"), "–"
		if c.Version != "" {
			seen = fmt.Sprintf("%s, %s, %s", c.Version, c.Cipher, c.Group)
		}
		fmt.Fprintf(out, "| %s | %s | %s | %s |\n", p.title, version, seen, p.note)
	}
	out.WriteString("\n")
	for _, p := range allPeers {
		if why := r.Skipped[p.name]; why != "" {
			fmt.Fprintf(out, "Not measured: %s (%s).\n\n", p.title, why)
		}
	}
}

func (r *report) table(out *strings.Builder, t table) {
	var columns []column
	for _, c := range t.columns {
		for _, p := range allPeers {
			if r.figure(c.measure, p.name, c.key).N > 0 {
				columns = append(columns, c)
				break
			}
		}
	}
	if len(columns) == 0 {
		return
	}
	fmt.Fprintf(out, "### %s\n\n", t.title)
	if t.note != "" {
		fmt.Fprintf(out, "%s\n\n", t.note)
	}
	out.WriteString("| |")
	for _, c := range columns {
		fmt.Fprintf(out, " %s |", r.header(c))
	}
	out.WriteString("\n|---|" + strings.Repeat("--:|", len(columns)) + "\n")
	for _, p := range allPeers {
		cells, any := "", false
		for _, c := range columns {
			s := r.figure(c.measure, p.name, c.key)
			switch {
			case s.N > 0:
				cells, any = cells+" "+s.String()+r.heldBy(c, p.name)+" |", true
			case r.failed(c.measure, p.name):
				cells, any = cells+" failed |", true
			default:
				cells += " – |"
			}
		}
		if any {
			fmt.Fprintf(out, "| %s |%s\n", p.title, cells)
		}
	}
	out.WriteString("\n")
}

// header says how many idle connections few and many were.
func (r *report) header(c column) string {
	if n, most := r.held(c, ""); n != "" {
		return fmt.Sprintf("KiB per connection, %.0f idle", most)
	}
	return c.header
}

// heldBy says how many idle connections a peer held, if it is fewer than the others.
func (r *report) heldBy(c column, peer string) string {
	_, most := r.held(c, "")
	if n, own := r.held(c, peer); n != "" && own < most {
		return fmt.Sprintf(", with %.0f", own)
	}
	return ""
}

// held is the most idle connections of one peer, or of all, where the column is of these.
func (r *report) held(c column, peer string) (n string, most float64) {
	n, ok := strings.CutPrefix(c.key, "kib_conn_")
	if !ok {
		return "", 0
	}
	for _, s := range r.Samples {
		if peer == "" || s.Peer == peer {
			most = max(most, s.Values["conns_"+n])
		}
	}
	return n, most
}

// goals is the table of ratios.
func (r *report) goals(out *strings.Builder) {
	var rows strings.Builder
	for _, g := range allGoals {
		cells, any := "", false
		for _, name := range []string{"ours", "ours-x25519"} {
			cell := r.judge(g, name)
			any = any || cell != "–"
			cells += " " + cell + " |"
		}
		if any {
			fmt.Fprintf(&rows, "| %s | %s |%s\n", g.title, g.want, cells)
		}
	}
	if rows.Len() > 0 {
		fmt.Fprintf(out, "### Goals\n\nRatios to the best of the TLS peers in this run, of the worst column where there are several. "+
			"Our default key exchange, X25519MLKEM768, is more work than the peers' X25519; the last column is like with like.\n\n"+
			"| figure | goal | meshless | meshless, X25519 |\n|---|---|--:|--:|\n%s\n", rows.String())
	}
}

// judge is the worst of a goal's figures, with whom it is compared.
func (r *report) judge(g goal, name string) string {
	worst, text := 0.0, "–"
	for _, c := range g.columns {
		mine := r.figure(c.measure, name, c.key)
		if mine.N == 0 || mine.Median == 0 {
			continue
		}
		if g.against == "" {
			if text == "–" || mine.Median > worst {
				worst, text = mine.Median, number(mine.Median)
			}
			continue
		}
		best, who := r.best(c, g.against)
		if who == "" {
			continue
		}
		ratio := mine.Median / best
		if text == "–" || (ratio < worst) != c.lower {
			worst, text = ratio, fmt.Sprintf("%.2f × %s", ratio, who)
			if len(g.columns) > 1 {
				text += " (" + c.header + ")"
			}
		}
	}
	return text
}

// best is the best figure of those that are compared with, and whose it is.
func (r *report) best(c column, against string) (best float64, who string) {
	for _, p := range allPeers {
		if p.ours || p.pods || (against == "peers" && !p.tls) || (against != "peers" && p.name != against) {
			continue
		}
		if s := r.figure(c.measure, p.name, c.key); s.N > 0 && s.Median > 0 && (who == "" || (s.Median < best) == c.lower) {
			best, who = s.Median, p.title
		}
	}
	return best, who
}

func (r *report) failures(out *strings.Builder) {
	seen := map[string]bool{}
	for _, s := range r.Samples {
		if key := s.Measure + s.Peer; s.Error != "" && !seen[key] {
			seen[key] = true
			fmt.Fprintf(out, "Failed: %s of %s: %s\n\n", s.Measure, s.Peer, s.Error)
		}
	}
}
