package sidecar

import (
	"context"
	"errors"
	"time"

	"github.com/meshless-dev/meshless/proxy/destination"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// How long the start waits for DNS, and how often it asks meanwhile.
const (
	nameTimeout  = 10 * time.Second
	nameInterval = 500 * time.Millisecond
	dnsTimeout   = 3 * time.Second // how long it waits for a DNS that does not answer at all
)

// awaitName waits until DNS knows that this pod is of the mesh: its app, which starts when the proxy is ready, may tell
// others its address, and those must find it. The wait ends after nameTimeout, and at once where there is no DNS of a
// cluster.
func (s *Sidecar) awaitName(ctx context.Context) {
	defer close(s.named)
	select {
	case <-s.first:
	case <-ctx.Done():
		return
	}
	ctx, cancel := context.WithTimeout(ctx, nameTimeout)
	defer cancel()
	began := time.Now()
	for {
		known, err := s.resolver.KnowsPod(ctx, s.identity.Current().Mesh)
		switch {
		case known:
			s.telemetry.Named(telemetry.NameFound)
			return
		case errors.Is(err, destination.ErrNoCluster), err != nil && time.Since(began) > dnsTimeout:
			s.log.Info("not waiting for DNS to know this pod", "error", err.Error())
			s.telemetry.Named(telemetry.NameNoDNS)
			return
		}
		select {
		case <-time.After(nameInterval):
		case <-ctx.Done():
			s.telemetry.Named(telemetry.NameTimeout)
			s.log.Warn("DNS does not know this pod yet, going on", "waited_ms", nameTimeout.Milliseconds(),
				"hint", "is the Service meshless-members-"+s.identity.Current().Mesh.Package+" in the namespace, and has the pod its label meshless.dev/package? Until DNS knows the pod, others may not find that it is of the mesh")
			return
		}
	}
}
