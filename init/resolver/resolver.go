package resolver

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// system is the pod that Write works in; tests have some of their own.
type system struct {
	resolvConf string // what the kubelet wrote
	directory  string // where the other containers' file is left
	portStart  string // the kernel's first port that needs no capability
}

var host = system{"/etc/resolv.conf", api.ResolverDirectory, "/proc/sys/net/ipv4/ip_unprivileged_port_start"}

// Write leaves the resolv.conf of the pod's other containers in api.ResolverDirectory, and writes to out what it wrote,
// what is protected, and what is not. Running it again replaces the file at once. On an error no file is left that was
// not there before.
func Write(args podplan.InitArgs, out io.Writer) error { return host.write(args, out) }

func (s system) write(args podplan.InitArgs, out io.Writer) error {
	if err := args.ValidateResolver(); err != nil {
		return err
	}
	if err := s.checkPorts(); err != nil {
		return err
	}
	file, err := os.Open(s.resolvConf)
	if err != nil {
		return fmt.Errorf("the kubelet's name servers: %w", err)
	}
	defer file.Close()
	c, err := parse(file)
	if err != nil {
		return fmt.Errorf("%s: %w", s.resolvConf, err)
	}
	if err := s.replace(c.text()); err != nil {
		return err
	}
	_, err = io.WriteString(out, s.report(args, c))
	return err
}

// checkPorts refuses a pod in which the proxy, which has no capability, could listen neither for DNS nor on the ports
// of Services below 1024. A kernel that does not know the limit has none that shows here.
func (s system) checkPorts() error {
	text, err := os.ReadFile(s.portStart)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the first port that needs no capability: %w", err)
	}
	if start := strings.TrimSpace(string(text)); start != "0" {
		return fmt.Errorf("net.ipv4.ip_unprivileged_port_start is %s in this pod, so the proxy could not listen on port %d; "+
			"the rendered securityContext.sysctls sets it to 0: something took it out, or the container runtime does not apply it", start, api.ResolverPort)
	}
	return nil
}

// replace puts the file in place at once: a container that is started again meanwhile never finds half of it.
func (s system) replace(text string) error {
	if _, err := os.Stat(s.directory); err != nil {
		return fmt.Errorf("the volume %s is to be mounted at %s: %w", api.ResolverVolume, s.directory, err)
	}
	file, err := os.CreateTemp(s.directory, "."+api.ResolverFile+"-")
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	err = errors.Join(err, file.Chmod(0o644), file.Close()) // every user of the pod reads it
	if err == nil {
		err = os.Rename(file.Name(), filepath.Join(s.directory, api.ResolverFile))
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}

// report is what the log of this container says.
func (s system) report(args podplan.InitArgs, c config) string {
	var b strings.Builder
	fmt.Fprintf(&b, "This pod has no redirect rules: nothing here needed a capability, and nothing of the network was changed.\n\n"+
		"%s, which every other container but %s has as /etc/resolv.conf:\n", filepath.Join(s.directory, api.ResolverFile), api.ProxyName)
	for line := range strings.Lines(c.text()) {
		b.WriteString("\t" + line)
	}
	b.WriteString("\nThe proxy asks, as the kubelet wrote:\n")
	for _, server := range c.servers {
		fmt.Fprintf(&b, "\tnameserver %s\n", server)
	}
	list(&b, "Protected", protected)
	list(&b, "NOT protected", append(excluded(args), unprotected...))
	return b.String()
}

// protected and unprotected are of every such pod.
var (
	protected = []string{
		"what a program opens to a name of a Service of the mesh, or of a pod behind one, on a port of the Service: it meets the proxy",
		"what arrives at a direct port of the proxy, one for each port in its --direct-ports: there Services and other proxies lead",
	}
	unprotected = []string{
		"what a program opens to a literal address, or to one that it did not get from this pod's DNS: it leaves as it is, past the proxy",
		"what a program opens to a name outside of the mesh: likewise",
		"UDP, ICMP and SCTP; of DNS the way from the proxy to the name servers",
		"what arrives at the app's own ports: a NetworkPolicy that was rendered with this pod keeps others away from there, if the cluster's network enforces NetworkPolicies",
		"an address of its own that the app tells others, who then dial it past the proxy: that NetworkPolicy refuses them",
	}
)

// excluded says what the flags leave out.
func excluded(args podplan.InitArgs) []string {
	if len(args.ExcludeInboundPorts) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("what arrives for the ports %s: peers reach the app there without the proxy, as --exclude-inbound-ports says", args.ExcludeInboundPorts)}
}

func list(b *strings.Builder, title string, items []string) {
	fmt.Fprintf(b, "\n%s:\n", title)
	for _, item := range items {
		fmt.Fprintf(b, "\t- %s\n", item)
	}
}
