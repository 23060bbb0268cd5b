package sandbox

import (
	"bytes"
	"errors"
	"log/slog"
	"math"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"

	"github.com/meshless-dev/meshless/proxy/budget"
)

func TestContainerMemory(t *testing.T) {
	fails := func(err error) memlimit.Provider { return func() (uint64, error) { return 0, err } }
	for name, c := range map[string]struct {
		provider memlimit.Provider
		want     int64  // 0: none
		logged   string // part of what is logged; empty: nothing is
	}{
		"limit":           {provider: memlimit.Limit(200 << 20), want: 200 << 20},
		"no limit":        {provider: fails(memlimit.ErrNoLimit)},
		"no limit in v1":  {provider: memlimit.Limit(math.MaxInt64 &^ 4095)},
		"no limit at all": {provider: memlimit.Limit(math.MaxUint64)},
		"limit of 0":      {provider: memlimit.Limit(0)},
		"no cgroups":      {provider: fails(memlimit.ErrCgroupsNotSupported)},
		"unreadable":      {provider: fails(errors.New("torn")), logged: "torn"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if got := containerMemory(slog.New(slog.NewTextHandler(&out, nil)), c.provider); got != c.want {
				t.Errorf("%d, want %d", got, c.want)
			}
			if (out.Len() > 0) != (c.logged != "") || !strings.Contains(out.String(), c.logged) {
				t.Errorf("logged %q, want %q", out.String(), c.logged)
			}
		})
	}
}

// TestLimitMemory: garbage and what the kernel keeps for sockets fit together.
func TestLimitMemory(t *testing.T) {
	t.Cleanup(func() { debug.SetMemoryLimit(math.MaxInt64) })
	for name, c := range map[string]struct {
		env     string
		memory  int64
		limited bool
	}{
		"limit":             {memory: 256 << 20, limited: true},
		"small":             {memory: 20 << 20, limited: true},
		"large":             {memory: 4 << 30, limited: true},
		"no limit":          {memory: 0},
		"GOMEMLIMIT is set": {env: "1GiB", memory: 256 << 20},
		"GOMEMLIMIT is off": {env: "off", memory: 256 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			debug.SetMemoryLimit(math.MaxInt64)
			t.Setenv("GOMEMLIMIT", c.env)
			b := budget.For(budget.Resources{Memory: c.memory, Machine: 8 << 30})
			got, inForce := LimitMemory(b), debug.SetMemoryLimit(-1)
			switch {
			case !c.limited && (got != 0 || inForce != math.MaxInt64):
				t.Errorf("set %d, in force %d, want none", got, inForce)
			case c.limited && (got != inForce || got > c.memory/10*9+10 || got < c.memory/10*4 || got+b.KernelShare() > c.memory):
				t.Errorf("set %d of %d, in force %d; the kernel's share is %d", got, c.memory, inForce, b.KernelShare())
			}
		})
	}
}
