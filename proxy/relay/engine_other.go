//go:build !linux

package relay

// engineWorks: there is no engine but Linux's, where the proxy runs. Elsewhere, for its tests, crypto/tls keeps its
// records.
const engineWorks = false

// Engine moves nothing on this system.
type Engine struct{}

// NewEngine makes an engine that moves nothing.
func NewEngine() (*Engine, error) { return new(Engine), nil }

// Close does nothing.
func (*Engine) Close() {}

func (*Engine) add(s *Session) { s.run() }

type joint struct{}

func (*joint) end()            {}
func (*joint) vanished() error { return nil }
