package kernel

import (
	"os"
	"testing"

	"github.com/meshless-dev/meshless/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }
