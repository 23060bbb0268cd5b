package destination

import (
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/meshless-dev/meshless/internal/api"
)

// nameCharacters are those of names in a cluster. The underscore is not Kubernetes' own, but DNS has it.
const nameCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

// pointer is one PTR record whose target is a name of a Service.
type pointer struct {
	target string // as it is to be asked for, with its trailing dot
	name   Name
	ttl    uint32
}

// pointers reads the PTR records of an answer. Targets that are no names of Services below svc.<domain> are left out:
// they say nothing about the mesh.
func pointers(answer *dns.Msg, domain string) []pointer {
	var found []pointer
	for _, rr := range answer.Answer {
		ptr, ok := rr.(*dns.PTR)
		if !ok {
			continue
		}
		if name, ok := parseName(ptr.Ptr, domain); ok {
			found = append(found, pointer{ptr.Ptr, name, ptr.Hdr.Ttl})
		}
	}
	return found
}

// parseName reads <service>.<namespace>.svc.<domain>, a Service's clusterIP, and
// <endpoint>.<service>.<namespace>.svc.<domain>, a pod behind it (Kubernetes DNS specification, sections 2.3 and 2.4).
// Labels of other characters than Kubernetes gives to names are refused before case is folded: a dot within a label
// must not make two labels of it, nor a foreign letter a Latin one.
func parseName(fqdn, domain string) (Name, bool) {
	if strings.ContainsFunc(fqdn, func(r rune) bool { return !strings.ContainsRune(nameCharacters, r) }) {
		return Name{}, false
	}
	name, ok := strings.CutSuffix(strings.ToLower(fqdn), ".svc."+strings.ToLower(domain)+".")
	if !ok {
		return Name{}, false
	}
	labels := strings.Split(name, ".")
	if slices.Contains(labels, "") {
		return Name{}, false
	}
	switch len(labels) {
	case 2:
		return Name{Service: name}, true
	case 3:
		return Name{Service: labels[1] + "." + labels[2], Endpoint: true}, true
	}
	return Name{}, false
}

// serviceOf is the <service>.<namespace> of a host of the mesh map.
func serviceOf(host, domain string) (string, bool) {
	name, ok := parseName(host+".", domain)
	return name.Service, ok && !name.Endpoint
}

// isMembers tells whether <service>.<namespace>, or a Service alone, is the members Service of a package.
func isMembers(service string) bool {
	pkg, ok := strings.CutPrefix(service, api.MembersPrefix)
	return ok && pkg != "" && pkg[0] != '.'
}

// aliasOf is the <service>.<namespace> of the alias of a Service.
func aliasOf(service string) string {
	name, namespace, _ := strings.Cut(service, ".")
	return api.AliasName(name) + "." + namespace
}
