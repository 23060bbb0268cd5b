//go:build !linux

package interop

import (
	"testing"

	"github.com/meshless-dev/meshless/test/program"
)

// TestInterop cannot be run here.
func TestInterop(t *testing.T) { program.Missing(t, "Linux's network namespaces") }
