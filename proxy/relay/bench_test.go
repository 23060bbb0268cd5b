//go:build linux

package relay_test

import (
	"io"
	"testing"
)

// BenchmarkBulk sends through two sessions, from app to app.
func BenchmarkBulk(b *testing.B) {
	ts := newTunnels(b)
	tn := ts.open(b, 0)
	chunk := make([]byte, 1<<20)
	b.SetBytes(1 << 20)
	go func() {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{tn.far}, make([]byte, 256<<10))
	}()
	for b.Loop() {
		if _, err := tn.near.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMessage sends one byte there and back.
func BenchmarkMessage(b *testing.B) {
	ts := newTunnels(b)
	tn := ts.open(b, 0)
	go func() { _, _ = io.Copy(tn.far, tn.far) }()
	one := make([]byte, 1)
	for b.Loop() {
		if _, err := tn.near.Write(one); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(tn.near, one); err != nil {
			b.Fatal(err)
		}
	}
}
