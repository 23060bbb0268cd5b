package main

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"
)

// The images are built for arm64 as well: what talks to the kernel in structs and numbers of system calls must compile
// there, tests included.
func TestVetForARM64(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the standard library for another architecture, if it is not in the cache; without -short it does")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "vet", "github.com/meshless-dev/meshless/init/...")
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("GOARCH=arm64 go vet ./init/...: %v\n%s", err, out)
	}
}
