package monitoring

import (
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	promql "github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
)

// loading is the text with which promqltest fills a store, of lines "pod metric{labels} values": it adds the labels
// that scraping adds, a sample a minute. Names and labels that the proxy does not have are errors, since an alert that
// is tested on them is tested on nothing.
func loading(t *testing.T, series string) string {
	t.Helper()
	known := inventory(t)
	var out strings.Builder
	out.WriteString("load 1m\n")
	for line := range strings.Lines(series) {
		pod, rest, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		owner, _, _ := strings.Cut(pod, "-")
		scraped := fmt.Sprintf(`{namespace="prod",workload="deployment/%s",pod="%s",container="meshless-proxy",`, owner, pod)
		rest = strings.Replace(rest, "{", scraped, 1)
		end := strings.Index(rest, "}")
		known.check(t, "series", strings.Replace(rest[:end+1], ",}", "}", 1))
		out.WriteString("  " + strings.Replace(rest, ",}", "}", 1) + "\n")
	}
	return out.String()
}

// key tells an alert from another of its name.
func key(rule *rules.AlertingRule) string { return rule.Name() + "/" + rule.Labels().Get("severity") }

// simulate runs Prometheus's own rule engine over the series, from 0 to the end. It returns the alerts that fired at
// any time.
func simulate(t *testing.T, series string, end, step time.Duration) map[string]*rules.Alert {
	t.Helper()
	storage := promqltest.LoadedStorage(t, loading(t, series))
	defer storage.Close()
	query := rules.EngineQueryFunc(promqltest.NewTestEngine(t, false, 5*time.Minute, 1e6), storage)
	fired := map[string]*rules.Alert{}
	for _, rule := range alertingRules(t) {
		for at := time.Duration(0); at <= end; at += step {
			if _, err := rule.Eval(t.Context(), 0, time.Unix(0, 0).Add(at), query, new(url.URL), 0); err != nil {
				t.Fatalf("%s at %s: %v", key(rule), at, err)
			}
			for _, alert := range rule.ActiveAlerts() {
				if alert.State == rules.StateFiring {
					fired[key(rule)] = alert
				}
			}
		}
	}
	return fired
}

func alertingRules(t *testing.T) (all []*rules.AlertingRule) {
	t.Helper()
	for _, group := range monitoringRules(t) {
		for _, r := range group.Rules {
			expr, err := promql.ParseExpr(r.Expr)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, rules.NewAlertingRule(r.Alert, expr, time.Duration(r.For), time.Duration(r.KeepFiringFor), labels.FromMap(r.Labels),
				labels.FromMap(r.Annotations), labels.EmptyLabels(), "", true, slog.New(slog.DiscardHandler)))
		}
	}
	return all
}

// minutes is how long the shorter simulations last.
const minutes = 70

// alertCases are the alerts with series on which each fires, alone or with others that are named, and series close by
// on which all are silent. N stands for the number of samples. Every simulation has a proxy in it, since there is an
// alert for none.
var alertCases = []struct {
	alerts    string
	bad, fine string
	end       time.Duration // default: minutes
}{
	{alerts: "MeshlessLeafExpires/warning", end: 3 * time.Hour,
		bad: leaf("web-1", -24*day, 6*day),
		// a month, a year, a day
		fine: leaf("web-1", -22*day, 8*day) + leaf("api-1", -305*day, 60*day) + leaf("db-1", -16*time.Hour, 8*time.Hour)},
	{alerts: "MeshlessLeafExpires/warning", end: 2 * time.Hour, bad: leaf("web-1", -19*time.Hour, 5*time.Hour+30*time.Minute), fine: leaf("web-1", 0, 30*day)},
	{alerts: "MeshlessLeafExpires/critical MeshlessLeafExpires/warning", end: 3 * time.Hour,
		bad: leaf("web-1", -29*day, day), fine: leaf("web-1", -15*day, 15*day)},
	{alerts: "MeshlessLeafExpires/critical MeshlessLeafExpires/warning", end: 3 * time.Hour,
		bad: leaf("web-1", -30*day, time.Hour), fine: "web-1 meshless_leaf_not_after_timestamp_seconds{} 0xN\nweb-1 meshless_leaf_not_before_timestamp_seconds{} 0xN"},
	{alerts: "MeshlessAuthorityExpires/warning", end: 3 * time.Hour,
		bad:  leaf("web-1", -5*day, 25*day) + authority("web-1", 13*day, 13*day),
		fine: leaf("web-1", -5*day, 25*day) + authority("web-1", 2*time.Hour, 100*day)},
	{alerts: "MeshlessAuthorityExpires/critical MeshlessAuthorityExpires/warning", end: 3 * time.Hour,
		bad:  leaf("web-1", -5*day, 25*day) + authority("web-1", day, day),
		fine: leaf("web-1", -time.Hour, 23*time.Hour) + authority("web-1", 20*time.Hour, 20*time.Hour)},
	{alerts: "MeshlessReloadFailing/warning",
		bad:  "web-1 meshless_reload_failing{} 0x20 1xN\nweb-1 meshless_generation{} 1xN",
		fine: "web-1 meshless_reload_failing{} 0x20 1x10 0xN\nweb-1 meshless_generation{} 1xN"},
	{alerts: "MeshlessProxyNotReady/warning",
		bad:  "web-1 meshless_reload_failing{} 1xN\nweb-1 meshless_generation{} 0xN",
		fine: "web-1 meshless_reload_failing{} 1x5 0xN\nweb-1 meshless_generation{} 0x5 1xN"},
	{alerts: "MeshlessRedirectMissing/critical",
		bad:  `web-1 meshless_redirect_missing{chain="output"} 0x20 1xN`,
		fine: eachReason(`web-1 meshless_redirect_missing{chain="%s"} 0xN`, "prerouting", "output", "guard") + `web-1 meshless_redirect_checks_total{result="failed"} 1xN`},
	{alerts: "MeshlessRedirectUnknown/warning",
		bad: `web-1 meshless_redirect_checks_total{result="unknown"} 0+30xN
			web-1 meshless_redirect_checks_total{result="passed"} 100xN`,
		fine: `web-1 meshless_redirect_checks_total{result="unknown"} 0+2xN
			web-1 meshless_redirect_checks_total{result="passed"} 0+14xN`},
	{alerts: "MeshlessFilesDiffer/warning", end: 5 * time.Hour,
		bad:  leaf("web-1", -15*day, 15*day) + leaf("web-2", 0, 30*day),
		fine: leaf("web-1", 0, 30*day) + leaf("web-2", 0, 30*day) + leaf("api-1", -15*day, 15*day)},
	{alerts: "MeshlessOutboundFails/critical",
		bad: `web-1 meshless_handshake_failures_total{direction="outbound",reason="timeout"} 0+2xN
			web-1 meshless_handshake_duration_seconds_count{direction="outbound"} 0+10xN`,
		// a burst, some of many, and a health check by TCP
		fine: `web-1 meshless_handshake_failures_total{direction="outbound",reason="timeout"} 0x20 0+10x5 50xN
			web-1 meshless_handshake_duration_seconds_count{direction="outbound"} 0+10xN
			api-1 meshless_handshake_failures_total{direction="outbound",reason="peer_closed"} 0+2xN
			api-1 meshless_handshake_duration_seconds_count{direction="outbound"} 0+50xN
			db-1 meshless_handshake_failures_total{direction="inbound",reason="peer_closed"} 0+12xN
			db-1 meshless_handshake_duration_seconds_count{direction="inbound"} 0+1xN`},
	{alerts: "MeshlessOutboundFails/critical", // the server refuses us, in TLS 1.3
		bad: `web-1 meshless_handshake_failures_total{direction="outbound",reason="timeout"} 0xN
			web-1 meshless_connections_closed_total{direction="outbound",security="mutual_tls",reason="alert"} 0+10xN
			web-1 meshless_handshake_duration_seconds_count{direction="outbound"} 0+10xN`,
		fine: `web-1 meshless_handshake_failures_total{direction="outbound",reason="timeout"} 0xN
			web-1 meshless_connections_closed_total{direction="outbound",security="mutual_tls",reason="done"} 0+10xN
			web-1 meshless_handshake_duration_seconds_count{direction="outbound"} 0+10xN`},
	{alerts: "MeshlessCertificateRefused/warning",
		bad:  eachReason(`web-1 meshless_handshake_failures_total{direction="inbound",reason="%s"} 0+1xN`, "expired", "not_yet_valid", "unknown_authority", "revoked", "wrong_identity", "malformed"),
		fine: eachReason(`web-1 meshless_handshake_failures_total{direction="inbound",reason="%s"} 0x20 0+20x3 60xN`, "expired", "unknown_authority", "revoked", "wrong_identity")},
	{alerts: "MeshlessPlaintextRefused/warning",
		bad:  eachReason(`web-1 meshless_handshake_failures_total{direction="inbound",reason="%s"} 0+1xN`, "not_tls", "no_certificate"),
		fine: eachReason(`web-1 meshless_handshake_failures_total{direction="inbound",reason="%s"} 0+12xN`, "peer_closed", "timeout")},
	{alerts: "MeshlessPeersDenied/warning",
		bad: `web-1 meshless_denials_total{reason="no_rule",enforced="true"} 0+1xN`, fine: `web-1 meshless_denials_total{reason="no_rule",enforced="true"} 0x20 0+20x3 60xN`},
	{alerts: "MeshlessPeersWouldBeDenied/info",
		bad: `web-1 meshless_denials_total{reason="no_rule",enforced="false"} 0x20 1xN`, fine: `web-1 meshless_denials_total{reason="no_rule",enforced="false"} 0xN`},
	{alerts: "MeshlessPlaintextAccepted/info",
		bad: `web-1 meshless_protocol_detections_total{result="plaintext"} 0x20 1xN`, fine: `web-1 meshless_protocol_detections_total{result="mutual_tls"} 0+9xN`},
	{alerts: "MeshlessPlaintextUnanswered/warning",
		bad: `web-1 meshless_unanswered_plaintext_total{} 0+1xN`, fine: `web-1 meshless_unanswered_plaintext_total{} 0x20 0+2x1 2xN`},
	{alerts: "MeshlessPassedOn/info",
		bad: `web-1 meshless_passed_on_total{} 0x20 1xN`, fine: `web-1 meshless_passed_on_total{} 0xN`},
	{alerts: "MeshlessConnectionsNearLimit/warning",
		bad: `web-1 meshless_connections_open{direction="inbound",security="mutual_tls"} 5000xN
			web-1 meshless_connections_open{direction="inbound",security="plaintext"} 4000xN
			web-1 meshless_connections_limit{direction="inbound"} 10000xN`,
		fine: `web-1 meshless_connections_open{direction="inbound",security="mutual_tls"} 5000xN
			web-1 meshless_connections_open{direction="outbound",security="mutual_tls"} 2900xN
			web-1 meshless_connections_limit{direction="inbound"} 10000xN
			web-1 meshless_connections_limit{direction="outbound"} 10000xN`},
	{alerts: "MeshlessConnectionsNearLimit/warning", // all without mutual TLS, which take more
		bad: `web-1 meshless_connections_open{direction="outbound",security="passthrough"} 5000xN
			web-1 meshless_connections_limit{direction="outbound"} 10000xN`,
		fine: `web-1 meshless_connections_open{direction="outbound",security="passthrough"} 4700xN
			web-1 meshless_connections_limit{direction="outbound"} 10000xN`},
	{alerts: "MeshlessOverBudget/warning",
		bad: `web-1 meshless_connections_refused_total{direction="inbound",reason="source_limit"} 0+60xN`, fine: `web-1 meshless_connections_refused_total{direction="inbound",reason="source_limit"} 0x20 10xN`},
	{alerts: "MeshlessConnectionsCut/warning",
		bad:  eachReason(`web-1 meshless_connections_closed_total{direction="inbound",security="mutual_tls",reason="%s"} 0+1xN`, "given_up", "memory_limit", "stuck_record"),
		fine: eachReason(`web-1 meshless_connections_closed_total{direction="inbound",security="mutual_tls",reason="%s"} 0x20 0+20x3 60xN`, "given_up", "memory_limit", "stuck_record")},
	{alerts: "MeshlessRenewalsFail/warning", end: 8 * time.Hour,
		bad:  `web-1 meshless_renewals_total{direction="outbound",result="failed"} 0x60 0+1xN`,
		fine: eachReason(`web-1 meshless_renewals_total{direction="outbound",result="%s"} 0+1xN`, "renewed", "unchanged")},
	{alerts: "MeshlessLogLinesLost/warning", bad: `web-1 meshless_log_lines_lost_total{} 0x20 0+9xN`, fine: `web-1 meshless_log_lines_lost_total{} 5xN`},
	{alerts: "MeshlessDestinationRefused/warning",
		bad:  eachReason(`web-1 meshless_connections_refused_total{direction="outbound",reason="%s"} 0+1xN`, "uncertain_destination", "unknown_destination"),
		fine: eachReason(`web-1 meshless_connections_refused_total{direction="outbound",reason="%s"} 0x20 0+20x3 60xN`, "uncertain_destination", "connect_failed")},
	{alerts: "MeshlessDNSFails/warning",
		bad: `web-1 meshless_dns_lookups_total{result="error"} 0+10xN
			web-1 meshless_dns_lookups_total{result="found"} 0+10xN`,
		fine: `web-1 meshless_dns_lookups_total{result="error"} 0x20 0+10x4 40xN
			web-1 meshless_dns_lookups_total{result="found"} 0+10xN
			api-1 meshless_dns_lookups_total{result="not_found"} 0+10xN`},
	{alerts: "MeshlessProxyUnreachable/warning", bad: `web-1 up{} 1x20 0xN`, fine: `web-1 up{} 1x20 0x10 1xN`},
	{alerts: "MeshlessAcceptErrors/warning", bad: `web-1 meshless_accept_errors_total{} 0x20 0+9xN`, fine: `web-1 meshless_accept_errors_total{} 0x20 5xN`},
	{alerts: "MeshlessFileDescriptors/warning",
		bad: "web-1 process_open_fds{} 900xN\nweb-1 process_max_fds{} 1000xN", fine: "web-1 process_open_fds{} 700xN\nweb-1 process_max_fds{} 1000xN"},
	{alerts: "MeshlessVersionsDiffer/info", end: 30 * time.Hour,
		bad: `web-2 meshless_build_info{version="v2"} 1xN`, fine: `web-2 meshless_build_info{version="v2"} _x60 1x240`},
}

const day = 24 * time.Hour

func leaf(pod string, notBefore, notAfter time.Duration) string {
	return fmt.Sprintf("%s meshless_leaf_not_before_timestamp_seconds{} %.0fxN\n%s meshless_leaf_not_after_timestamp_seconds{} %.0fxN\n", pod, notBefore.Seconds(), pod, notAfter.Seconds())
}

func authority(pod string, soonest, latest time.Duration) string {
	return fmt.Sprintf("%s meshless_ca_not_after_timestamp_seconds{which=\"soonest\"} %.0fxN\n%s meshless_ca_not_after_timestamp_seconds{which=\"latest\"} %.0fxN\n",
		pod, soonest.Seconds(), pod, latest.Seconds())
}

func eachReason(series string, reasons ...string) string {
	var out strings.Builder
	for _, reason := range reasons {
		fmt.Fprintf(&out, series+"\n", reason)
	}
	return out.String()
}

// TestMonitoringAlerts: every alert fires on what it is for, and on nothing else; its annotations are whole.
func TestMonitoringAlerts(t *testing.T) {
	covered := map[string]bool{"MeshlessNoProxies/warning": true} // the last simulation
	run := func(series string, end time.Duration) map[string]*rules.Alert {
		if end == 0 {
			end = minutes * time.Minute
		}
		series = "web-1 meshless_build_info{version=\"v1\"} 1xN\n" + series
		return simulate(t, strings.ReplaceAll(series, "xN", fmt.Sprintf("x%.0f", end.Minutes())), end, max(2*time.Minute, end/40))
	}
	for i, c := range alertCases {
		wanted := strings.Fields(c.alerts)
		for _, name := range wanted {
			covered[name] = true
		}
		t.Run(fmt.Sprintf("%d_%s", i, strings.ReplaceAll(wanted[0], "/", "_")), func(t *testing.T) {
			fired := run(c.bad, c.end)
			if got := slices.Sorted(maps.Keys(fired)); !slices.Equal(got, wanted) {
				t.Errorf("bad series: %v fire, want %v", got, wanted)
			}
			for name, alert := range fired {
				checkAnnotations(t, name, alert)
			}
			if fired := run(c.fine, c.end); len(fired) > 0 {
				t.Errorf("good series: %v fire", slices.Sorted(maps.Keys(fired)))
			}
		})
	}
	fired := simulate(t, `web-1 up{} 1x70`, time.Hour, time.Minute)
	if alert := fired["MeshlessNoProxies/warning"]; alert == nil || len(fired) != 1 {
		t.Errorf("without proxies %v fire", slices.Sorted(maps.Keys(fired)))
	}
	for _, rule := range alertingRules(t) {
		if !covered[key(rule)] {
			t.Errorf("%s fires in no simulation", key(rule))
		}
	}
}

var usedLabel = regexp.MustCompile(`\$labels\.(\w+)`)

// checkAnnotations: no template failed, and no label that it uses was aggregated away.
func checkAnnotations(t *testing.T, name string, alert *rules.Alert) {
	t.Helper()
	alert.Annotations.Range(func(l labels.Label) {
		if strings.Contains(l.Value, "error expanding") || strings.Contains(l.Value, "<no value>") || strings.Contains(l.Value, "{{") || strings.Contains(l.Value, "  ") {
			t.Errorf("%s: %s is %q", name, l.Name, l.Value)
		}
	})
	for _, group := range monitoringRules(t) {
		for _, rule := range group.Rules {
			if rule.Alert+"/"+rule.Labels["severity"] != name {
				continue
			}
			for _, text := range rule.Annotations {
				for _, label := range usedLabel.FindAllStringSubmatch(text, -1) {
					if !alert.Labels.Has(label[1]) {
						t.Errorf("%s has no label %s, which its annotations use: %s", name, label[1], alert.Labels)
					}
				}
			}
		}
	}
}

// TestMonitoringHealthy: 26 hours of a mesh in which all is well: traffic, two rollouts, a renewal, a revocation, a
// sync in waves, a restart of CoreDNS. Nothing fires.
func TestMonitoringHealthy(t *testing.T) {
	if fired := simulate(t, healthy, 26*time.Hour, 2*time.Minute); len(fired) > 0 {
		for name, alert := range fired {
			t.Errorf("%s fires: %s", name, alert.Annotations.Get("summary"))
		}
	}
}

const healthy = `
	web-1 up{} 1x600 0x4 1x955
	web-1 meshless_build_info{version="v1"} 1x600 _x959
	web-2 meshless_build_info{version="v2"} _x595 1x964
	api-1 meshless_build_info{version="v1"} 1x700 _x859
	api-2 meshless_build_info{version="v2"} _x695 1x864
	web-1 meshless_generation{} 1x600 _x959
	web-2 meshless_generation{} _x595 0x2 1x300 2x660
	api-1 meshless_generation{} 1x700
	api-2 meshless_generation{} _x695 0x2 1x200 2x660
	web-2 meshless_reload_failing{} _x595 1x2 0x295 1x5 0x659
	api-2 meshless_reload_failing{} _x695 1x2 0x860
	web-2 meshless_reload_failures_total{} _x595 0x300 1x660
	web-1 meshless_leaf_not_before_timestamp_seconds{} -1296600x600
	web-1 meshless_leaf_not_after_timestamp_seconds{} 1296000x600
	web-2 meshless_leaf_not_before_timestamp_seconds{} _x595 0x2 -1296600x300 54000x660
	web-2 meshless_leaf_not_after_timestamp_seconds{} _x595 0x2 1296000x300 2646000x660
	web-3 meshless_leaf_not_after_timestamp_seconds{} _x595 0x2 1296000x305 2646000x655
	web-2 meshless_ca_not_after_timestamp_seconds{which="soonest"} _x595 0x2 2000000x960
	web-2 meshless_ca_not_after_timestamp_seconds{which="latest"} _x595 0x2 12960000x960
	web-1 meshless_connections_opened_total{direction="inbound",security="mutual_tls"} 0+600x600
	web-1 meshless_connections_open{direction="inbound",security="mutual_tls"} 200x600
	web-1 meshless_connections_open{direction="outbound",security="mutual_tls"} 3000x600
	web-1 meshless_connections_limit{direction="inbound"} 10000x600
	web-1 meshless_connections_limit{direction="outbound"} 10000x600
	web-1 meshless_handshake_duration_seconds_count{direction="outbound"} 0+60x600
	web-1 meshless_handshake_failures_total{direction="outbound",reason="peer_closed"} 0x300 0+20x5 100x295
	web-1 meshless_handshake_failures_total{direction="outbound",reason="revoked"} 0x400 0+30x3 90x197
	web-1 meshless_handshake_failures_total{direction="inbound",reason="peer_closed"} 0+12x600
	web-1 meshless_handshake_failures_total{direction="inbound",reason="not_tls"} 0x100 1x200 2x300
	web-1 meshless_connections_closed_total{direction="outbound",security="mutual_tls",reason="alert"} 0x400 0+30x3 90x197
	web-1 meshless_connections_closed_total{direction="outbound",security="mutual_tls",reason="done"} 0+60x600
	web-1 meshless_connections_refused_total{direction="outbound",reason="connect_failed"} 0x595 0+50x5
	web-1 meshless_connections_refused_total{direction="outbound",reason="uncertain_destination"} 0x200 0+20x4 80x396
	web-1 meshless_connections_refused_total{direction="inbound",reason="handshake_failed"} 0+12x600
	web-1 meshless_denials_total{reason="no_rule",enforced="true"} 0x100 2x500
	web-1 meshless_denials_total{reason="no_rule",enforced="false"} 0x600
	web-1 meshless_protocol_detections_total{result="mutual_tls"} 0+60x600
	web-1 meshless_protocol_detections_total{result="plaintext"} 0x600
	web-1 meshless_dns_lookups_total{result="found"} 0+20x600
	web-1 meshless_dns_lookups_total{result="not_found"} 0+20x600
	web-1 meshless_dns_lookups_total{result="error"} 0x200 0+20x4 80x396
	web-1 meshless_accept_errors_total{} 0x600
	web-1 process_open_fds{} 7000x600
	web-1 process_max_fds{} 1048576x600
`
