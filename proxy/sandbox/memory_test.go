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
)

func TestLimitMemory(t *testing.T) {
	t.Cleanup(func() { debug.SetMemoryLimit(math.MaxInt64) })
	fails := func(err error) memlimit.Provider { return func() (uint64, error) { return 0, err } }
	for name, c := range map[string]struct {
		env      string
		provider memlimit.Provider
		want     int64  // 0: untouched
		logged   string // part of what is logged; empty: nothing is
	}{
		"limit":              {provider: memlimit.Limit(200 << 20), want: 180 << 20, logged: "memory limit"},
		"no limit":           {provider: fails(memlimit.ErrNoLimit)},
		"no limit in v1":     {provider: memlimit.Limit(math.MaxUint64)},
		"limit of 0":         {provider: memlimit.Limit(0)},
		"no cgroups":         {provider: fails(memlimit.ErrCgroupsNotSupported)},
		"unreadable":         {provider: fails(errors.New("torn")), logged: "torn"},
		"GOMEMLIMIT is set":  {env: "1GiB", provider: memlimit.Limit(200 << 20)},
		"GOMEMLIMIT is off":  {env: "off", provider: memlimit.Limit(200 << 20)},
		"GOMEMLIMIT is void": {env: "", provider: memlimit.Limit(20 << 20), want: 18 << 20, logged: "memory limit"},
	} {
		t.Run(name, func(t *testing.T) {
			debug.SetMemoryLimit(math.MaxInt64)
			t.Setenv("GOMEMLIMIT", c.env)
			var out bytes.Buffer
			got := limitMemory(slog.New(slog.NewTextHandler(&out, nil)), c.provider)
			inForce := debug.SetMemoryLimit(-1)
			if want := c.want; got != want || (want > 0 && inForce != want) || (want == 0 && inForce != math.MaxInt64) {
				t.Errorf("set %d, in force %d, want %d", got, inForce, c.want)
			}
			if (out.Len() > 0) != (c.logged != "") || !strings.Contains(out.String(), c.logged) {
				t.Errorf("logged %q, want %q", out.String(), c.logged)
			}
		})
	}
}
