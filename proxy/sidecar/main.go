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
	"github.com/meshless-dev/meshless/proxy/relay"
)

// Main runs a command line of meshless-proxy, without the program's name. It returns when the command has ended. Logs
// and usage go to out.
func Main(args []string, out io.Writer) error {
	ctx := context.Background()
	c, err := podplan.ParseProxyCommand(args, out)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return err
	case c.Wait != nil:
		return ownPod.wait(ctx, *c.Wait)
	case c.Drain != nil:
		return ownPod.drain(ctx, *c.Drain)
	}
	return serve(ctx, *c.Serve, out)
}

// programLog is the log of a process that is a proxy and nothing else: whoever reads it may end, and then lines are
// lost and not the process.
func programLog(out io.Writer, level slog.Leveler) (*slog.Logger, *logWriter) {
	signal.Ignore(syscall.SIGPIPE)
	lines := newLogWriter(out)
	return slog.New(slog.NewJSONHandler(lines, &slog.HandlerOptions{Level: level})), lines
}

// serve runs the sidecar of this pod until a signal ends it: the first drains, the second ends at once. Logs go to out
// as JSON, one object per line.
func serve(ctx context.Context, a podplan.ProxyArgs, out io.Writer) error {
	level := new(slog.LevelVar)
	if err := level.UnmarshalText([]byte(a.LogLevel)); err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	log, lines := programLog(out, level)
	defer lines.flush()
	// a drain timeout of 0 cuts at once; in Options it would be the default
	s, err := New(Options{Directory: a.Directory, Namespace: os.Getenv(podplan.NamespaceVariable), DrainTimeout: max(a.DrainTimeout, 1), IdleTimeout: a.IdleTimeout, Pprof: a.Pprof, Records: relay.Records(a.Records), ClientCIDRs: a.ClientCIDRs,
		Direct: a.Direct, Log: log, LostLines: lines.Lost, Level: level, Confine: true})
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	ctx, kill := context.WithCancel(ctx)
	defer kill()
	go func() {
		for _, act := range []func(){s.Shutdown, kill} {
			select {
			case got := <-signals:
				log.Info("signal received", "signal", got.String())
				act()
			case <-ctx.Done():
				return
			}
		}
	}()
	return s.Run(ctx)
}
