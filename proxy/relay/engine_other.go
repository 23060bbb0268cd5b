//go:build !linux

package relay

// engineWorks: there is no engine but that of Linux, where the proxy runs. Elsewhere, for its tests, crypto/tls keeps
// its records.
const engineWorks = false

// Engine moves nothing on this system.
type Engine struct{}

// NewEngine makes an engine that moves nothing.
func NewEngine(int, Limits) (*Engine, error) { return new(Engine), nil }

// Buffered is 0: nothing is moved here.
func (*Engine) Buffered() int64 { return 0 }

// Queued is 0 likewise.
func (*Engine) Queued() int64 { return 0 }

// Failed never brings anything.
func (*Engine) Failed() <-chan error { return nil }

// Close does nothing.
func (*Engine) Close() {}

func (*Engine) add(s *Session) { s.conclude(s.run()) }

func (*Engine) know(*Session)   {}
func (*Engine) forget(*Session) {}

type pair struct{}

func (*pair) end()                {}
func (*pair) unresponsive() error { return nil }
