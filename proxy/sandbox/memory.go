package sandbox

import (
	"errors"
	"log/slog"
	"math"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// LimitMemory tells the garbage collector to keep the process at 90 % of the container's memory limit (cgroup v1 and
// v2), so that it collects harder before the kernel kills: Go knows the CPU limit by itself, not this one. The rest is
// for memory that is not Go's. The environment variable GOMEMLIMIT goes before, and without a limit nothing changes.
// Call it before Enter, behind which cgroups cannot be read. The result is the limit in bytes that it has set, or 0.
func LimitMemory(log *slog.Logger) int64 { return limitMemory(log, memlimit.FromCgroup) }

func limitMemory(log *slog.Logger, container memlimit.Provider) int64 {
	if os.Getenv("GOMEMLIMIT") != "" {
		return 0
	}
	bytes, err := container()
	switch {
	case errors.Is(err, memlimit.ErrNoLimit) || errors.Is(err, memlimit.ErrCgroupsNotSupported):
		return 0
	case err != nil:
		log.Warn("the container's memory limit is unknown: set GOMEMLIMIT if it has one", "error", err.Error())
		return 0
	case bytes == 0 || bytes > math.MaxInt64: // no container runs with the first, and the second is none
		return 0
	}
	limit := int64(bytes / 10 * 9)
	debug.SetMemoryLimit(limit)
	log.Info("memory limit", "bytes", limit)
	return limit
}
