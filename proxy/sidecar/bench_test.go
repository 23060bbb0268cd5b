package sidecar

import "testing"

// The whole path in one process: client, two proxies, app. BenchmarkDirect is the same without the proxies.

func BenchmarkConnection(b *testing.B) {
	m := startMesh(b, echo)
	for b.Loop() {
		if err := exchange(m.client.outboundAddr(), "x"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	m := startMesh(b, echo)
	c := dial(b, m.client.outboundAddr())
	for b.Loop() {
		if err := roundTrip(c, "x"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDirect(b *testing.B) {
	m := startMesh(b, echo)
	c := dial(b, m.app.String())
	for b.Loop() {
		if err := roundTrip(c, "x"); err != nil {
			b.Fatal(err)
		}
	}
}
