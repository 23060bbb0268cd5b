package monitoring

import (
	"log/slog"
	"regexp"
	"testing"

	"github.com/prometheus/prometheus/config"
)

// TestPrometheusConfig: the configuration of the Prometheus in the mesh is one to Prometheus's own parser. Its
// discovery of Kubernetes needs a module that nothing else here does, so fixed targets stand in its place.
func TestPrometheusConfig(t *testing.T) {
	text := read(t, "../../examples/monitoring/prometheus/prometheus.yml")
	discovery := regexp.MustCompile(`kubernetes_sd_configs: \[\{role: (pod|endpointslice)\}\]`)
	if n := len(discovery.FindAllString(text, -1)); n != 3 {
		t.Fatalf("%d scrape configurations discover pods, want 3", n)
	}
	c, err := config.Load(discovery.ReplaceAllString(text, `static_configs: [{targets: ["10.0.0.1:80"]}]`), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if scrapes, err := c.GetScrapeConfigs(); err != nil || len(scrapes) != 3 {
		t.Errorf("%d scrape configurations (%v), want 3", len(scrapes), err)
	}
}
