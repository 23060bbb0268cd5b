package hold

import (
	"reflect"
	"testing"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// FuzzRecord: what can be read is written as it was, and no annotation makes it panic.
func FuzzRecord(f *testing.F) {
	plan := podplan.Plan{Init: podplan.Container{Image: api.InitImage}, Serve: podplan.ProxyArgs{LogLevel: "info", IdleTimeout: 3600e9, Records: podplan.RecordsOwn},
		Proxy: podplan.Container{Image: api.ProxyImage, PullPolicy: "Always", Resources: &podplan.Resources{Limits: map[string]string{"memory": "64Mi"}}}}
	f.Add(recordOf("0a", &plan).String())
	f.Add(`{"template":"","init":{"image":"a"},"proxy":{"image":"a","requests":{"cpu":"1e3"}}}`)
	f.Add(`{}{}`)
	f.Fuzz(func(t *testing.T, text string) {
		r, ok := parse(text)
		if !ok {
			return
		}
		if again, ok := parse(r.String()); !ok || !reflect.DeepEqual(again, r) && again.String() != r.String() {
			t.Errorf("%q is read as %+v, and written and read again as %+v", text, r, again)
		}
		_, _ = r.plan(plan)
	})
}

// A plan with what was recorded of it is the plan.
func TestRecord(t *testing.T) {
	plan := podplan.Plan{Init: podplan.Container{Image: api.InitImage}, Serve: podplan.ProxyArgs{LogLevel: "warn", IdleTimeout: 3600e9, Records: podplan.RecordsStandard},
		Proxy: podplan.Container{Image: api.ProxyImage, PullPolicy: "Always", Resources: &podplan.Resources{Limits: map[string]string{"memory": "64Mi"}}}}
	r, ok := parse(recordOf("0a", &plan).String())
	if !ok {
		t.Fatal("the record cannot be read")
	}
	if got, err := r.plan(*without(plan)); err != nil || !reflect.DeepEqual(*got, plan) {
		t.Errorf("got %+v (%v), want %+v", got, err, plan)
	}
}

func TestRepository(t *testing.T) {
	for image, want := range map[string]string{
		"a": "a", "a:1": "a", "ghcr.io/x/proxy:v1": "ghcr.io/x/proxy", "localhost:5000/p": "localhost:5000/p",
		"localhost:5000/p:v1@sha256:00": "localhost:5000/p", "p@sha256:00": "p",
	} {
		if got := Repository(image); got != want {
			t.Errorf("%s: got %s, want %s", image, got, want)
		}
	}
}
