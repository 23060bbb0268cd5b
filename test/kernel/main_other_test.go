//go:build !linux

package kernel

import (
	"os"
	"testing"
)

// TestShop cannot be run here; with CI=true that is a failure, so that it is run somewhere.
func TestShop(t *testing.T) {
	if os.Getenv("CI") == "true" {
		t.Fatal("needs Linux's network namespaces, and CI=true: run it on Linux")
	}
	t.Skip("needs Linux's network namespaces")
}
