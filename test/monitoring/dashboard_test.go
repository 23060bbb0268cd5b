package monitoring

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	promql "github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
)

// dashboard is what Grafana's schema has for what is judged here; more is allowed.
type dashboard struct {
	UID, Title    string
	SchemaVersion int
	Templating    struct {
		List []struct{ Name, Type, Definition string }
	}
	Panels []panel
}

type panel struct {
	ID          int
	Type, Title string
	Description string
	GridPos     struct{ X, Y, W, H int }
	Datasource  struct{ UID string }
	FieldConfig struct{ Defaults struct{ Unit string } }
	Targets     []struct {
		Expr, LegendFormat, RefID string
		Datasource                struct{ UID string }
	}
}

func (p panel) overlaps(q panel) bool {
	a, b := p.GridPos, q.GridPos
	return a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	if err := json.Unmarshal([]byte(read(t, "../../examples/monitoring/dashboard.json")), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// interpolate replaces Grafana's variables as Grafana does.
var interpolate = strings.NewReplacer("$__rate_interval", "5m", "$__range", "1h", "$namespace", ".*", "$workload", ".*")

// TestMonitoringDashboard: panels are told apart, do not overlap, have titles, units and descriptions, and ask for what
// there is.
func TestMonitoringDashboard(t *testing.T) {
	d, known := readDashboard(t), inventory(t)
	if d.UID == "" || d.Title == "" || d.SchemaVersion < 39 || len(d.Panels) < 20 {
		t.Fatalf("dashboard %q %q, schema %d, %d panels", d.UID, d.Title, d.SchemaVersion, len(d.Panels))
	}
	var variables []string
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
		if query, ok := strings.CutPrefix(v.Definition, "label_values("); ok {
			selector, label, _ := strings.Cut(strings.TrimSuffix(query, ")"), ", ")
			known.check(t, "variable "+v.Name, "count by ("+label+") ("+interpolate.Replace(selector)+")")
		} else if v.Type != "datasource" {
			t.Errorf("variable %s: %s %q", v.Name, v.Type, v.Definition)
		}
	}
	if !slices.Equal(variables, []string{"datasource", "namespace", "workload"}) {
		t.Errorf("variables are %v", variables)
	}
	ids, titles := map[int]bool{}, map[string]bool{}
	for i, p := range d.Panels {
		if p.ID < 1 || ids[p.ID] || p.Title == "" || titles[p.Title] {
			t.Errorf("panel %d %q: id or title is not its own", p.ID, p.Title)
		}
		ids[p.ID], titles[p.Title] = true, true
		if g := p.GridPos; g.X < 0 || g.W < 1 || g.H < 1 || g.X+g.W > 24 {
			t.Errorf("%s is at %+v", p.Title, g)
		}
		for _, q := range d.Panels[:i] {
			if p.overlaps(q) {
				t.Errorf("%s and %s overlap", p.Title, q.Title)
			}
		}
		if p.Type != "row" {
			p.check(t, known)
		}
	}
}

var legendLabel = regexp.MustCompile(`\{\{(\w+)\}\}`)

func (p panel) check(t *testing.T, known metrics) {
	t.Helper()
	if p.FieldConfig.Defaults.Unit == "" || p.Description == "" || p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
		t.Errorf("%s: unit %q, description %q, data source %q, %d queries", p.Title, p.FieldConfig.Defaults.Unit, p.Description, p.Datasource.UID, len(p.Targets))
	}
	refs := map[string]bool{}
	for _, target := range p.Targets {
		if refs[target.RefID] || target.Datasource.UID != "${datasource}" {
			t.Errorf("%s: query %s of data source %q", p.Title, target.RefID, target.Datasource.UID)
		}
		refs[target.RefID] = true
		text := interpolate.Replace(target.Expr)
		if strings.Contains(text, "$") || !strings.Contains(target.Expr, `namespace=~"$namespace"`) || !strings.Contains(target.Expr, `workload=~"$workload"`) {
			t.Errorf("%s: the variables of %s", p.Title, target.Expr)
		}
		expr := known.check(t, p.Title, text)
		if expr == nil {
			continue
		}
		for _, label := range legendLabel.FindAllStringSubmatch(target.LegendFormat, -1) {
			if !slices.Contains(known.labelsOf(expr), label[1]) {
				t.Errorf("%s: %s has no label %s for the legend", p.Title, text, label[1])
			}
		}
	}
}

// labelsOf are the labels that an expression may give: those of the innermost "by", or all that its metrics have.
func (m metrics) labelsOf(expr promql.Expr) []string {
	found := m.labelsBelow(expr)
	promql.Inspect(expr, func(n promql.Node, _ []promql.Node) error {
		if a, ok := n.(*promql.AggregateExpr); ok && a.Op != promql.TOPK && !a.Without {
			found = a.Grouping
		}
		return nil
	})
	return found
}

// TestMonitoringDashboardShows: with a mesh in which everything happens, no panel stays empty.
func TestMonitoringDashboardShows(t *testing.T) {
	storage := promqltest.LoadedStorage(t, loading(t, everything))
	defer storage.Close()
	engine := promqltest.NewTestEngine(t, false, 5*time.Minute, 1e6)
	for _, p := range readDashboard(t).Panels {
		for _, target := range p.Targets {
			query, err := engine.NewInstantQuery(t.Context(), storage, nil, interpolate.Replace(target.Expr), time.Unix(0, 0).Add(2*time.Hour))
			if err != nil {
				t.Fatalf("%s: %v", p.Title, err)
			}
			result := query.Exec(t.Context())
			if vector, err := result.Vector(); err != nil || len(vector) == 0 {
				t.Errorf("%s shows nothing (%v): %s", p.Title, err, target.Expr)
			}
			query.Close()
		}
	}
}

// everything is two hours of a mesh in which everything happens.
const everything = `
	web-1 meshless_build_info{version="v1"} 1x120
	web-1 meshless_connections_opened_total{direction="inbound",security="mutual_tls"} 0+9x120
	web-1 meshless_connections_opened_total{direction="inbound",security="plaintext"} 0+1x120
	web-1 meshless_connections_opened_total{direction="outbound",security="mutual_tls"} 0+9x120
	web-1 meshless_connections_closed_total{direction="inbound",security="mutual_tls",reason="done"} 0+9x120
	web-1 meshless_connections_refused_total{direction="inbound",reason="handshake_failed"} 0+1x120
	web-1 meshless_connections_open{direction="inbound",security="mutual_tls"} 5x120
	web-1 meshless_connections_limit{direction="inbound"} 10000x120
	web-1 meshless_connections_waiting{direction="inbound"} 3x120
	web-1 meshless_renewals_total{direction="outbound",result="renewed"} 0+1x120
	web-1 meshless_redirect_missing{chain="output"} 0x120
	web-1 meshless_redirect_checks_total{result="passed"} 0+15x120
	web-1 meshless_log_lines_lost_total{} 0+1x120
	web-1 meshless_received_bytes_total{direction="inbound",security="mutual_tls"} 0+999x120
	web-1 meshless_sent_bytes_total{direction="inbound",security="mutual_tls"} 0+999x120
	web-1 meshless_handshake_duration_seconds_bucket{direction="inbound",le="0.001"} 0+5x120
	web-1 meshless_handshake_duration_seconds_bucket{direction="inbound",le="+Inf"} 0+9x120
	web-1 meshless_handshake_failures_total{direction="inbound",reason="not_tls"} 0+1x120
	web-1 meshless_handshake_failures_total{direction="outbound",reason="timeout"} 0+1x120
	web-1 meshless_denials_total{reason="no_rule",enforced="true"} 0+1x120
	web-1 meshless_denials_total{reason="no_rule",enforced="false"} 0+1x120
	web-1 meshless_protocol_detections_total{result="plaintext"} 0+1x120
	web-1 meshless_dns_lookups_total{result="found"} 0+1x120
	web-1 meshless_accept_errors_total{} 0+1x120
	web-1 meshless_generation{} 0+1x120
	web-1 meshless_reload_failures_total{} 0+1x120
	web-1 meshless_reload_failing{} 0x120
	web-1 meshless_leaf_not_before_timestamp_seconds{} -600x120
	web-1 meshless_leaf_not_after_timestamp_seconds{} 2592000x120
	web-1 meshless_ca_not_after_timestamp_seconds{which="soonest"} 7776000x120
	web-1 meshless_ca_not_after_timestamp_seconds{which="latest"} 15552000x120
	web-1 process_resident_memory_bytes{} 20000000x120
	web-1 process_cpu_seconds_total{} 0+1x120
	web-1 process_open_fds{} 20x120
	web-1 go_goroutines{} 20x120
	web-1 ALERTS{alertname="MeshlessOverBudget",alertstate="firing",severity="warning"} 1x120
`
