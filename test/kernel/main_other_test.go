//go:build !linux

package kernel

import (
	"testing"

	"github.com/meshless-dev/meshless/test/program"
)

// TestShop cannot be run here.
func TestShop(t *testing.T) { program.Missing(t, "Linux's network namespaces") }
