package podspec

import (
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// minMemory is the least memory limit with which init and proxy start: what Go's runtime and their programs take.
var minMemory = resource.MustParse("16Mi")

// Validate refuses plans that contradict themselves, and containers that could not live with the resources that they
// get.
func Validate(p *podplan.Plan) error {
	return errors.Join(p.Validate(), checkResources(api.InitName, p.Init.Resources), checkResources(api.ProxyName, p.Proxy.Resources))
}

func checkResources(name string, r *podplan.Resources) error {
	if r == nil {
		return nil
	}
	var errs []error
	if text, ok := r.Limits["memory"]; ok {
		if limit, err := resource.ParseQuantity(text); err != nil || limit.Cmp(minMemory) < 0 {
			errs = append(errs, fmt.Errorf("%s: its memory limit is %s; below %s it is killed before the app can start", name, text, &minMemory))
		}
	}
	for what, text := range r.Requests {
		limit, limited := r.Limits[what]
		if a, b := parse(text), parse(limit); limited && a.Cmp(b) > 0 {
			errs = append(errs, fmt.Errorf("%s: it requests %s of %s, and its limit is %s: the API server refuses the pod", name, text, what, limit))
		}
	}
	return errors.Join(errs...)
}

func parse(text string) resource.Quantity {
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return resource.Quantity{} // it came out of a Quantity
	}
	return q
}
