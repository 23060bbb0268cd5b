package apply

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
	"github.com/meshless-dev/meshless/internal/api"
)

// Remove takes out of the calling thread's network namespace all that Apply ever puts there, whatever back end wrote
// it, and nothing else: the table inet meshless, our chains in the tables nat and filter of either iptables with the
// jumps to them, the local routes to client addresses, and the address that earlier releases gave to lo. It writes a
// line to out for each, or that there was nothing; a second run is such a one. What then is opened in a pod leaves and
// arrives without the proxy; established connections stay as they are.
//
// It is an error if something could be left: rules of the legacy iptables can be seen with its programs and NET_RAW
// only.
func Remove(out io.Writer) error { return host.remove(out) }

func (s system) remove(out io.Writer) error {
	removed, err := removeFromNFTables(true, true)
	var legacy []string
	legacyErr := s.legacyVisible()
	if legacyErr == nil {
		legacy, legacyErr = s.removeLegacy()
	}
	transparent, transparentErr := removeTransparentRoutes()
	routes, routesErr := removeClientRoutes(func(netip.Prefix) bool { return true })
	address, addressErr := removeFormerSource6()
	removed = slices.Concat(removed, legacy, transparent, routes, address)
	for _, what := range removed {
		fmt.Fprintf(out, "removed %s\n", what)
	}
	if err := errors.Join(err, legacyErr, transparentErr, routesErr, addressErr); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	if len(removed) == 0 {
		_, err = fmt.Fprintf(out, "nothing of %s is here\n", api.InitName)
	}
	return err
}

// legacyVisible is an error where the namespace has a table of the legacy iptables that the container cannot look into:
// it may be ours.
func (s system) legacyVisible() error {
	for _, f := range []rules.Family{rules.IPv4, rules.IPv6} {
		for _, table := range rules.Tables {
			there, err := legacyTable(f, table)
			switch {
			case err != nil:
				return fmt.Errorf("find out whether the legacy %s has a table %s: %w", f.Program(""), table, err)
			case !there:
			case s.program(variantLegacy, f, "save") == "" || s.program(variantLegacy, f, "restore") == "":
				return fmt.Errorf("the legacy %s has a table %s here, which may hold rules of ours, and the image has no program to look: use the image %s", f.Program(""), table, api.InitIPTablesImage)
			case !capable(unix.CAP_NET_RAW):
				return fmt.Errorf("the legacy %s has a table %s here, which may hold rules of ours: %s", f.Program(""), table, hintNetRaw)
			}
		}
	}
	return nil
}
