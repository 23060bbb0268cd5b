//go:build race

package sidecar

import "testing"

func skipUnderRace(t *testing.T) {
	t.Helper()
	t.Skip("the race detector keeps memory of its own for each of ours; the figures are those of a build without it")
}
