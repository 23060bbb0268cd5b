package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
	"github.com/meshless-dev/meshless/internal/api"
)

// variant is one of the two programs that are both called iptables.
type variant string

// The variants, in the order in which they are tried: nft needs no capability but NET_ADMIN and no lock, and is what
// distributions chose.
const (
	// writes the tables of nftables that iptables-nft knows: kernels with nf_tables, back to 4.18
	variantNFT    variant = "nft"
	variantLegacy variant = "legacy" // writes ip_tables and ip6_tables: kernels before nf_tables, or without it
)

// errDiffers is an error after which the other variant is not tried: something writes to the tables, and would do so
// there.
var errDiffers = errors.New("the rules differ from what was written")

// variants are those whose programs for IPv4 are there.
func (s system) variants() (found []variant) {
	for _, v := range []variant{variantNFT, variantLegacy} {
		if s.program(v, rules.IPv4, "restore") != "" && s.program(v, rules.IPv4, "save") != "" {
			found = append(found, v)
		}
	}
	return found
}

// program is the path of a program like iptables-nft-restore; empty if there is none.
func (s system) program(v variant, f rules.Family, verb string) string {
	for _, d := range s.directories {
		path := filepath.Join(d, f.Program("-"+string(v)+"-"+verb))
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// run runs a program in the calling thread's network namespace and returns what it printed. The lock of the legacy
// programs keeps two of them on one machine apart; in a pod's own namespace there is nobody else, and with a read-only
// root no place for its file.
func (s system) run(v variant, f rules.Family, verb, input string, args ...string) (string, error) {
	path := s.program(v, f, verb)
	if path == "" {
		return "", fmt.Errorf("%s is not in the image", f.Program("-"+string(v)+"-"+verb))
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=" + strings.Join(s.directories, ":"), "LC_ALL=C", "XTABLES_LOCKFILE=/dev/null"}
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = "/", strings.NewReader(input), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", explainIPTables(v, fmt.Errorf("%s: %w: %s", filepath.Base(path), err, strings.Join(strings.Fields(stderr.String()), " ")))
	}
	return stdout.String(), nil
}

// writeIPTables takes the first variant that can write the rules of both families. A variant that fails half-way leaves
// rules that finish takes out when another succeeded; when none did, the pod does not start.
func (s system) writeIPTables(want rules.Ruleset, ipv6 bool) (result, error) {
	variants := s.variants()
	if len(variants) == 0 {
		return result{}, fmt.Errorf("neither iptables-nft-restore nor iptables-legacy-restore is in the image; %s has both", api.InitIPTablesImage)
	}
	if err := refuseForeignNFT(); err != nil {
		return result{}, err
	}
	var failures []string
	for _, v := range variants {
		text, err := s.writeVariant(v, want, ipv6)
		if err == nil {
			backend := "iptables-" + string(v)
			if len(failures) > 0 {
				backend += " (" + strings.Join(failures, "; ") + ")"
			}
			return result{backend: backend, ipv6: ipv6, variant: v, text: text}, nil
		}
		if errors.Is(err, errDiffers) {
			return result{}, err
		}
		failures = append(failures, err.Error())
	}
	if capable(unix.CAP_NET_ADMIN) && capable(unix.CAP_NET_RAW) && !inGVisor("/") {
		// or the failures say what is missing
		failures = append(failures, hintIPTables)
	}
	return result{}, errors.New(strings.Join(failures, "; "))
}

// writeVariant writes both families, each in one commit, and returns them as read back. With IPv6 disabled its rules
// are written all the same where they can be, since an address may appear later.
func (s system) writeVariant(v variant, want rules.Ruleset, ipv6 bool) (string, error) {
	text, err := s.writeFamily(v, rules.IPv4, want)
	if err != nil {
		return "", err
	}
	if !ipv6Known() {
		return text, nil
	}
	text6, err := s.writeFamily(v, rules.IPv6, want)
	if err != nil && !ipv6 && !errors.Is(err, errDiffers) {
		return text + "# no rules for IPv6: " + err.Error() + "\n", nil
	}
	return text + text6, err
}

func (s system) writeFamily(v variant, f rules.Family, want rules.Ruleset) (string, error) {
	held, err := s.held(v, f)
	if err != nil {
		return "", err
	}
	note := ""
	if _, refused := s.run(v, f, "restore", want.Restore(f, held), "--noflush"); refused != nil {
		// a node may lack REJECT and have all else
		if held, err = s.held(v, f); err != nil { // the first table may have been committed
			return "", err
		}
		note, want = noReset(refused), want.Dropping()
		if _, err := s.run(v, f, "restore", want.Restore(f, held), "--noflush"); err != nil {
			return "", err
		}
	}
	if held, err = s.held(v, f); err != nil {
		return "", err
	}
	got, err := held.Compare(f, want)
	if err != nil {
		return "", fmt.Errorf("%s: %w: %w", f.Program("-"+string(v)), errDiffers, err)
	}
	return "# " + f.Program("-"+string(v)) + "\n" + note + got.IPTables(f), nil
}

// held is what the tables of a variant hold. Listing a legacy one would make it, so the kernel is asked first whether
// it is there.
func (s system) held(v variant, f rules.Family) (rules.Held, error) {
	held := rules.Held{}
	for _, table := range rules.Tables {
		if v == variantLegacy {
			if there, err := legacyTable(f, table); err != nil {
				return nil, err
			} else if !there {
				continue
			}
		}
		text, err := s.run(v, f, "save", "", "-t", table)
		if err != nil {
			return nil, err
		}
		if held[table], err = rules.ParseSaved(table, text); err != nil {
			return nil, err
		}
	}
	return held, nil
}

// legacyTable tells whether the calling thread's network namespace has a table of ip_tables or ip6_tables.
func legacyTable(f rules.Family, table string) (bool, error) {
	name := map[rules.Family]string{rules.IPv4: "ip_tables_names", rules.IPv6: "ip6_tables_names"}[f]
	data, err := os.ReadFile("/proc/thread-self/net/" + name)
	if errors.Is(err, fs.ErrNotExist) { // the kernel has no such tables, or has not loaded them
		return false, nil
	}
	return slices.Contains(strings.Fields(string(data)), table), err
}

// capable tells whether the calling thread has the capability.
func capable(capability uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return true // unknown: the kernel will say it
	}
	return data[capability/32].Effective&(1<<(capability%32)) != 0
}
