//go:build !linux

package relay

// engineWorks: there is no engine but that of Linux, where the proxy runs. Elsewhere, for its tests, crypto/tls keeps
// its records.
const engineWorks = false

// Engine moves nothing on this system.
type Engine struct{}

// NewEngine makes an engine that moves nothing.
func NewEngine(int) (*Engine, error) { return new(Engine), nil }

// Failed never brings anything.
func (*Engine) Failed() <-chan error { return nil }

// Close does nothing.
func (*Engine) Close() {}

func (*Engine) add(s *Session) { s.run() }

type pair struct{}

func (*pair) end()                {}
func (*pair) unresponsive() error { return nil }
