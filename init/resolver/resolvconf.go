package resolver

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshless-dev/meshless/internal/api"
)

// maxSize bounds a resolv.conf. The kubelet writes at most 2,048 characters of search domains.
const maxSize = 64 << 10

// kept are the keywords whose lines say how names are looked up, and not at whom.
var kept = []string{"search", "domain", "options", "sortlist"}

// config is a resolv.conf as far as it matters here.
type config struct {
	lines   []string     // of the kept keywords, as they stand and in their order: of some the last one counts
	servers []netip.Addr // in order
}

// parse reads a resolv.conf as loosely as the resolvers do: words are what counts, and what no resolver knows is left
// out. A file that leaves the proxy nobody to ask is an error.
func parse(in io.Reader) (config, error) {
	text, err := io.ReadAll(io.LimitReader(in, maxSize+1))
	if err != nil {
		return config{}, err
	}
	if len(text) > maxSize {
		return config{}, fmt.Errorf("it has more than %d bytes, and no kubelet writes so many; look at dnsConfig of the pod", maxSize)
	}
	var c config
	for line := range strings.Lines(string(text)) {
		if err := c.add(strings.TrimRight(line, " \t\r\n")); err != nil {
			return config{}, err
		}
	}
	if len(c.servers) == 0 {
		return config{}, errors.New("it names no name server, so the proxy has nobody to ask; give the pod one with dnsPolicy or dnsConfig.nameservers")
	}
	return c, nil
}

// add takes one line.
func (c *config) add(line string) error {
	words := strings.Fields(line)
	switch {
	case len(words) < 2:
	case slices.Contains(kept, words[0]):
		c.lines = append(c.lines, line)
	case words[0] == "nameserver":
		server, err := netip.ParseAddr(words[1])
		if err != nil {
			return nil // the resolvers pass over it, and the proxy does
		}
		if server.Unmap() == netip.MustParseAddr(api.ResolverIP) {
			return fmt.Errorf("it names %s, where the proxy itself answers in this pod, as its name server; "+
				"a node with systemd-resolved has it: give the kubelet its own file with resolvConf, or the pod another server with dnsConfig.nameservers", server)
		}
		c.servers = append(c.servers, server)
	}
	return nil
}

// text is the resolv.conf of the pod's other containers.
func (c config) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# by %s: the proxy of this pod answers, and asks the servers of the kubelet\nnameserver %s\n", api.InitName, api.ResolverIP)
	for _, line := range c.lines {
		b.WriteString(line + "\n")
	}
	return b.String()
}
