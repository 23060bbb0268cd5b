//go:build e2e && linux

package kptlive

import (
	"os"
	"testing"

	"github.com/meshless-dev/meshless/test/cluster/stage"
)

func TestMain(m *testing.M) { os.Exit(stage.Main(m)) }
