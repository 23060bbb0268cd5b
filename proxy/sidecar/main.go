// Package sidecar is the whole proxy: it encrypts and verifies what leaves the pod and what arrives at it, with the
// identity that it finds in a directory. It needs no API access, no capability and no peer but the pods that it talks
// to.
package sidecar

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/sandbox"
)

// Main runs a command line of meshless-proxy, without the program's name. It returns when the command has ended. Logs
// and usage go to out.
func Main(args []string, out io.Writer) error {
	c, err := podplan.ParseProxyCommand(args, out)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return err
	case c.Wait != nil:
		return ownPod.wait(*c.Wait)
	case c.Drain != nil:
		return ownPod.drain(*c.Drain)
	}
	return runSidecar(*c.Serve, out)
}

// runSidecar serves until a signal ends it. Logs go to out as JSON, one object per line.
func runSidecar(a podplan.ProxyArgs, out io.Writer) error {
	level := new(slog.LevelVar)
	if err := level.UnmarshalText([]byte(a.LogLevel)); err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	log := slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: level}))
	sandbox.LimitMemory(log) // before Enter, behind which cgroups cannot be read
	p, err := bind(a, log, level)
	if err != nil {
		return err
	}
	// nothing of a peer or of the directory has been read yet, and nobody listens after it
	sandbox.Enter(a.Directory, log)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	ctx, kill := context.WithCancel(context.Background())
	defer kill()
	go followCPULimit(ctx, log)
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for _, act := range []func(){p.startDrain(true), kill} { // the first signal drains, the second ends at once
			select {
			case s := <-signals:
				log.Info("signal received", "signal", s.String())
				act()
			case <-ended:
				return
			}
		}
	}()
	return p.serve(ctx)
}
