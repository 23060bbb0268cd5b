package podplan

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"
)

// ProxyBinary is where the proxy's image keeps its one program. Lifecycle hooks of a sidecar that is a plain container
// run it: there is no shell.
const ProxyBinary = "/meshless-proxy"

// The commands of meshless-proxy. Without one it is the sidecar itself.
const (
	waitCommand  = "wait"
	drainCommand = "drain"
)

// Defaults of the commands. Delay and timeout of drain fill the default thirty seconds of terminationGracePeriodSeconds
// but for five, as DefaultDrainTimeout does.
const (
	DefaultWaitTimeout = 2 * time.Minute
	DefaultDrainDelay  = 5 * time.Second
	DefaultDrainLimit  = DefaultDrainTimeout - DefaultDrainDelay
)

// WaitArgs is the command line of `meshless-proxy wait`, the postStart hook: it ends when the proxy beside it is ready.
type WaitArgs struct {
	Timeout time.Duration
}

// DrainArgs is the command line of `meshless-proxy drain`, the preStop hook: it ends when the proxy beside it may be
// stopped.
type DrainArgs struct {
	// how long new inbound connections are still taken, as peers learn only by and by that the pod ends
	Delay   time.Duration
	Timeout time.Duration // how long connections may finish after that
}

// ProxyCommand is a command line of meshless-proxy; one field is set.
type ProxyCommand struct {
	Serve *ProxyArgs
	Wait  *WaitArgs
	Drain *DrainArgs
}

// Args is the command line that ParseProxyCommand reads; defaults are left out.
func (a WaitArgs) Args() []string {
	args := []string{waitCommand}
	if a.Timeout != 0 && a.Timeout != DefaultWaitTimeout {
		args = append(args, "--timeout="+a.Timeout.String())
	}
	return args
}

// Args is the command line that ParseProxyCommand reads; defaults are left out.
func (a DrainArgs) Args() []string {
	args := []string{drainCommand}
	if a.Delay != DefaultDrainDelay {
		args = append(args, "--delay="+a.Delay.String())
	}
	if a.Timeout != DefaultDrainLimit {
		args = append(args, "--timeout="+a.Timeout.String())
	}
	return args
}

// UsageError is a command line that a program does not take.
type UsageError struct{ err error }

// Error implements error.
func (e *UsageError) Error() string { return e.err.Error() }

// Unwrap is what is wrong with it.
func (e *UsageError) Unwrap() error { return e.err }

// ExitCode is how a program ends after an error: 2 for a command line that it does not take, as package flag has it,
// and 1 for another.
func ExitCode(err error) int {
	if errors.As(err, new(*UsageError)) {
		return 2
	}
	return 1
}

// asUsage marks what is wrong with a command line.
func asUsage(err error) error {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return err
	}
	return &UsageError{err}
}

// ParseProxyCommand reads any command line of meshless-proxy (without the program's name). flag.ErrHelp is returned for
// --help, after the usage went to usage; other errors are a UsageError.
func ParseProxyCommand(args []string, usage io.Writer) (c ProxyCommand, err error) {
	switch {
	case len(args) == 0 || strings.HasPrefix(args[0], "-"):
		c.Serve = new(ProxyArgs)
		*c.Serve, err = ParseProxyArgs(args, usage)
	case args[0] == waitCommand:
		c.Wait = new(WaitArgs)
		*c.Wait, err = parseWaitArgs(args[1:], usage)
	case args[0] == drainCommand:
		c.Drain = new(DrainArgs)
		*c.Drain, err = parseDrainArgs(args[1:], usage)
	default:
		err = fmt.Errorf("unknown command %q; want %s, %s, or none for the sidecar itself", args[0], waitCommand, drainCommand)
	}
	if err != nil {
		return ProxyCommand{}, asUsage(err)
	}
	return c, nil
}

func parseWaitArgs(args []string, usage io.Writer) (WaitArgs, error) {
	var a WaitArgs
	fs := newFlagSet("meshless-proxy "+waitCommand, usage)
	fs.DurationVar(&a.Timeout, "timeout", DefaultWaitTimeout, "how long the proxy may take to be ready")
	if err := parseAll(fs, args); err != nil {
		return WaitArgs{}, err
	}
	if a.Timeout <= 0 {
		return WaitArgs{}, errors.New("--timeout must be more than zero")
	}
	return a, nil
}

func parseDrainArgs(args []string, usage io.Writer) (DrainArgs, error) {
	var a DrainArgs
	fs := newFlagSet("meshless-proxy "+drainCommand, usage)
	fs.DurationVar(&a.Delay, "delay", DefaultDrainDelay, "how long new inbound connections are still taken")
	fs.DurationVar(&a.Timeout, "timeout", DefaultDrainLimit, "how long connections may finish after that")
	if err := parseAll(fs, args); err != nil {
		return DrainArgs{}, err
	}
	if a.Delay < 0 || a.Timeout <= 0 {
		return DrainArgs{}, errors.New("--delay must not be negative, and --timeout must be more than zero")
	}
	return a, nil
}
