package hold

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// record is the value of api.WrittenAnnotation: what a render wrote into a template that cannot be changed.
type record struct {
	// Template is the digest of what the render wrote, without what follows
	Template    string          `json:"template"`
	Init        container       `json:"init"`
	Proxy       container       `json:"proxy"`
	LogLevel    string          `json:"logLevel,omitempty"`
	IdleTimeout string          `json:"idleTimeout,omitempty"`
	Records     podplan.Records `json:"records,omitempty"`
	// Namespace: the proxy is told the namespace of its pod
	Namespace bool `json:"namespace,omitempty"`
}

type container struct {
	Image      string            `json:"image"`
	PullPolicy string            `json:"pullPolicy,omitempty"`
	Requests   map[string]string `json:"requests,omitempty"`
	Limits     map[string]string `json:"limits,omitempty"`
}

// recordOf is the record of a plan.
func recordOf(digest string, p *podplan.Plan) record {
	r := record{Template: digest, Init: containerOf(p.Init), Proxy: containerOf(p.Proxy), LogLevel: p.Serve.LogLevel, Records: p.Serve.Records, Namespace: p.ToldNamespace}
	if p.Serve.IdleTimeout != 0 {
		r.IdleTimeout = p.Serve.IdleTimeout.String()
	}
	return r
}

func containerOf(c podplan.Container) container {
	out := container{Image: c.Image, PullPolicy: c.PullPolicy}
	if c.Resources != nil {
		out.Requests, out.Limits = c.Resources.Requests, c.Resources.Limits
	}
	return out
}

// String is the value of the annotation.
func (r record) String() string {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(r); err != nil {
		return "" // strings alone, which are always JSON
	}
	return strings.TrimSpace(out.String())
}

// parse reads the value of the annotation. It is strict: a record that somebody has edited does not count.
func parse(text string) (record, bool) {
	var r record
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return record{}, false
	}
	_, err := decoder.Token()
	return r, errors.Is(err, io.EOF) && r.Init.valid() && r.Proxy.valid()
}

// valid tells whether a container can be as the record says.
func (c container) valid() bool {
	for _, list := range []map[string]string{c.Requests, c.Limits} {
		for _, quantity := range list {
			if q, err := resource.ParseQuantity(quantity); err != nil || q.String() != quantity {
				return false
			}
		}
	}
	return slices.Contains([]string{"", "Always", "IfNotPresent", "Never"}, c.PullPolicy) && v1alpha1.ValidateImage(c.Image) == nil
}

// plan is a plan with what the record says, and with a command line that the proxy takes.
func (r record) plan(p podplan.Plan) (*podplan.Plan, error) {
	p.Init, p.Proxy = r.Init.container(), r.Proxy.container()
	p.Serve.LogLevel, p.Serve.Records, p.Serve.IdleTimeout = r.LogLevel, r.Records, 0
	p.ToldNamespace = r.Namespace
	var err error
	if r.IdleTimeout != "" {
		p.Serve.IdleTimeout, err = time.ParseDuration(r.IdleTimeout)
	}
	_, wrong := podplan.ParseProxyArgs(p.Serve.Args(), io.Discard)
	return &p, errors.Join(err, wrong)
}

func (c container) container() podplan.Container {
	out := podplan.Container{Image: c.Image, PullPolicy: c.PullPolicy}
	if len(c.Requests)+len(c.Limits) > 0 {
		out.Resources = &podplan.Resources{Requests: c.Requests, Limits: c.Limits}
	}
	return out
}

// without is a plan without what a record says.
func without(p podplan.Plan) *podplan.Plan {
	p.Init, p.Proxy = podplan.Container{}, podplan.Container{}
	p.Serve.LogLevel, p.Serve.Records, p.Serve.IdleTimeout, p.ToldNamespace = "", "", 0, false
	return &p
}

// Repository is the name of an image without tag and digest.
func Repository(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if colon := strings.LastIndexByte(image, ':'); colon > strings.LastIndexByte(image, '/') {
		image = image[:colon]
	}
	return image
}
