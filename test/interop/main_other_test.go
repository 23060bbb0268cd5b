//go:build !linux

package interop

import (
	"os"
	"testing"
)

// TestInterop cannot be run here; with CI=true that is a failure, so that it is run somewhere.
func TestInterop(t *testing.T) {
	if os.Getenv("CI") == "true" {
		t.Fatal("needs Linux's network namespaces, and CI=true: run it on Linux")
	}
	t.Skip("needs Linux's network namespaces")
}
