package cli

import (
	"io"
	"time"
)

// MainAt is Main at another time, also for the function that kustomize starts, which has no flag for it.
func MainAt(now time.Time, args []string, in io.Reader, out, errs io.Writer) int {
	return (&program{in: in, out: out, err: errs, now: func() time.Time { return now }}).main(args)
}

// ParseArgs tells whether a command line is one that meshless knows, without running it.
func ParseArgs(args []string) error {
	cmd, rest, err := (&program{}).root(nil).Find(args)
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}
