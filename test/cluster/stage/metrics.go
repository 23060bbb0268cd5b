package stage

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/internal/api"
)

// Metrics asks a pod's proxy through the API server.
func Metrics(t *testing.T, namespace, pod string) string {
	t.Helper()
	return Must(t, "", "get", "--raw", fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:%d/proxy/metrics", namespace, pod, api.MetricsPort))
}

// Metric sums the series of a name that have all the labels, each like `reason="done"`. A name that is not there at all
// fails the test, so that no renamed metric hides.
func Metric(t *testing.T, metrics, name string, labels ...string) float64 {
	t.Helper()
	sum, found := 0.0, false
	for line := range strings.Lines(metrics) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		found = true
		series, value, _ := strings.Cut(rest, " ")
		if slices.ContainsFunc(labels, func(label string) bool { return !strings.Contains(series, label) }) {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatalf("metric %q: %v", line, err)
		}
		sum += n
	}
	if !found {
		t.Fatalf("no metric %s:\n%s", name, metrics)
	}
	return sum
}

// Opened is how many connections a proxy has opened, of a direction (inbound, outbound) and security (mutual_tls,
// plaintext, passthrough).
func Opened(t *testing.T, metrics, direction, security string) float64 {
	t.Helper()
	return Metric(t, metrics, "meshless_connections_opened_total", fmt.Sprintf("direction=%q", direction), fmt.Sprintf("security=%q", security))
}
