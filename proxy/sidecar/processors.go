package sidecar

import (
	"context"
	"log/slog"
	"os"
	"runtime"
	"time"
)

// limitInterval is how often the container's CPU limit is read again.
const limitInterval = 30 * time.Second

// followCPULimit lets Go use one processor more than its default, until ctx ends. A loop of the relay that waits is in
// a system call. While no processor is idle, the runtime's monitor takes those of system calls away again and again.
// With one processor that doubles what a small message costs. The default follows the container's CPU limit (cgroup);
// setting a number ends that, so the limit is read again here. GOMAXPROCS in the environment has precedence, and is not
// changed.
func followCPULimit(ctx context.Context, log *slog.Logger) {
	if os.Getenv("GOMAXPROCS") != "" {
		log.Info("GOMAXPROCS is set by the environment", "gomaxprocs", runtime.GOMAXPROCS(0))
		return
	}
	ticker := time.NewTicker(limitInterval)
	defer ticker.Stop()
	for before := 0; ; {
		if n := addProcessor(); n != before {
			log.Info("GOMAXPROCS is one more than the processors of the container", "gomaxprocs", n)
			before = n
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// addProcessor sets the number, and returns it. The default can be had by setting it alone, so all goroutines wait
// twice, 20 µs together.
func addProcessor() int {
	runtime.SetDefaultGOMAXPROCS()
	n := runtime.GOMAXPROCS(0) + 1
	runtime.GOMAXPROCS(n)
	return n
}
