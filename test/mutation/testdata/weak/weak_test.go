package weak

import (
	"flag"
	"testing"
)

var _ = flag.Int("seed", 0, "is not used")

func TestMin(t *testing.T) {
	if Min(1, 2) != 1 || Min(3, 2) != 2 {
		t.Error("no minimum")
	}
}
