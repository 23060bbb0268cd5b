package sandbox

import (
	"errors"
	"log/slog"
	"math"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"

	"github.com/meshless-dev/meshless/proxy/budget"
)

// Measure finds out what the process may use: its container's memory limit (cgroup v1 and v2), the machine's memory
// where there is none, and its descriptors. Call it before Enter, behind which cgroups cannot be read.
func Measure(log *slog.Logger) budget.Resources {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers") // cgroup v2 alone
	return budget.Resources{Memory: containerMemory(log, memlimit.FromCgroup), Machine: machineMemory(), Descriptors: descriptors(), SocketsCount: err == nil}
}

// containerMemory is the container's limit in bytes, or 0 for none.
func containerMemory(log *slog.Logger, container memlimit.Provider) int64 {
	bytes, err := container()
	switch {
	case errors.Is(err, memlimit.ErrNoLimit) || errors.Is(err, memlimit.ErrCgroupsNotSupported):
		return 0
	case err != nil:
		log.Warn("the container's memory limit is unknown: the proxy takes a part of the machine's", "error", err.Error())
		return 0
	case bytes > math.MaxInt64/2: // none, in cgroup v1
		return 0
	}
	return int64(bytes)
}

// LimitMemory tells the garbage collector to keep the process within the budget of a container, so that it collects
// harder before the kernel kills: Go knows the CPU limit by itself, not this one. What is not Go's gets a tenth, or
// else what the sockets of all connections need of the kernel. The environment variable GOMEMLIMIT goes before, and
// without a limit nothing changes. The result is the limit in bytes that it has set, or 0.
func LimitMemory(b budget.Budget) int64 {
	const part, atMost, other = 10, 6, 4 << 20 // tenths
	if os.Getenv("GOMEMLIMIT") != "" || !b.Limited {
		return 0
	}
	limit := b.Memory - max(b.Memory/part, min(b.KernelShare()+other, b.Memory/part*atMost))
	debug.SetMemoryLimit(limit)
	return limit
}
