package kernel

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/env"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
	"github.com/meshless-dev/meshless/test/program"
)

// evilNamespace is the attacker's: he has a package there, under the same authority, and a pod without a proxy.
const evilNamespace = "evil"

// TestLiesOfDNS holds a client of this edition against one of the edition before, while an attacker answers for the
// name server: he gains nothing that the edition before denied him. It sends no plaintext where that sent none, and
// takes no identity of another namespace where that took none.
func TestLiesOfDNS(t *testing.T) {
	a := startAttack(t)
	for _, l := range lies {
		t.Run(l.name, func(t *testing.T) {
			outcomes := a.tell(t, l)
			for _, target := range a.targets() {
				was, is := outcomes["before"][target.name], outcomes["this"][target.name]
				t.Logf("%s: before: %s; this: %s", target.name, was, is)
				if is.plaintext && !was.plaintext {
					t.Errorf("%s: %s, and the edition before: %s", target.name, is, was)
				}
				if is.identity != "" && is.identity != was.identity && !strings.HasPrefix(is.identity, "spiffe://cluster.local/ns/"+target.namespace+"/") {
					t.Errorf("%s: %s, where only namespace %s may answer", target.name, is, target.namespace)
				}
				if is.took > 12*time.Second {
					t.Errorf("%s: the app was left waiting for %s", target.name, is.took)
				}
				if want := l.want[target.name]; want != "" && !strings.HasPrefix(is.String(), want) {
					t.Errorf("%s: %s, want %s", target.name, is, want)
				}
			}
		})
	}
}

// attack is the lab of an attacker on the name server.
type attack struct {
	*lab.Lab
	members              string // the members Service of the victims
	before, this         *lab.Objects
	plain, thief, sniff  *lab.Pod // the victim's server; the attacker's with a proxy, and without
	evilMembers          string
	clients              int
	victims, evilPackage *example.Example
}

type attackTarget struct {
	name, namespace string
	to              netip.Addr
}

func (a *attack) targets() []attackTarget {
	return []attackTarget{
		{"victim's Service", dataNamespace, a.ServiceIP(dataNamespace, "plain", 4)},
		{"victim's pod", dataNamespace, a.plain.IP4},
		{"attacker's mesh pod", evilNamespace, a.thief.IP4},
		{"attacker's pod", evilNamespace, a.sniff.IP4},
	}
}

func startAttack(t *testing.T) *attack {
	t.Helper()
	program.InHistory(t, env.EditionBefore())
	meshless := program.Find(t, filepath.Join(editionBefore, "meshless"), "test/env/programs.sh builds it")
	a := &attack{Lab: lab.NewMeshless(t, nil, withEditionBefore(meshless))}
	ca := []string{"--ca", filepath.Join(t.TempDir(), "ca.yaml")}
	a.victims = example.Copy(t, "../../examples/pod")
	a.victims.Write(t, "pod.yaml", storeWorkload("Deployment", dataNamespace, "plain", "")+storeService(dataNamespace, "plain", "selector: {app: plain}", "")+
		clientManifests("one"))
	a.victims.Program = meshless
	a.victims.Issue(t, time.Now(), ca...)
	a.before = parse(t, ofEditionBefore(a.victims.Render(t)))
	a.victims.Program = ""
	a.victims.Issue(t, time.Now(), ca...)
	a.this = parse(t, a.victims.Render(t)+"\n---\n"+a.victims.IdentitySecret(dataNamespace))
	a.evilPackage = a.victims.Sibling(t, "../../examples/pod")
	a.evilPackage.Write(t, "pod.yaml", storeWorkload("Deployment", evilNamespace, "thief", "")+storeService(evilNamespace, "thief", "selector: {app: thief}", ""))
	a.evilPackage.Issue(t, time.Now(), ca...)
	evil := parse(t, a.evilPackage.Render(t)+"\n---\n"+a.evilPackage.IdentitySecret(evilNamespace))
	sniff := parse(t, storeWorkload("Deployment", evilNamespace, "sniff", ""))
	for _, o := range []*lab.Objects{a.before, a.this, evil, sniff} {
		if err := a.Apply(o); err != nil {
			t.Fatal(err)
		}
	}
	a.members, a.evilMembers = membersOf(t, a.this, dataNamespace), membersOf(t, evil, evilNamespace)
	pods := a.StartAll(lab.PodRequest{Workload: "Deployment/data/plain"}, lab.PodRequest{Workload: "Deployment/evil/thief"}, lab.PodRequest{Workload: "Deployment/evil/sniff"})
	a.plain, a.thief, a.sniff = pods[0], pods[1], pods[2]
	return a
}

// membersOf is the full name of the members Service of a namespace with one package.
func membersOf(t *testing.T, o *lab.Objects, namespace string) string {
	t.Helper()
	for _, s := range o.Services {
		if s.Namespace == namespace && strings.HasPrefix(s.Name, api.MembersPrefix) {
			return serviceName(s.Name, namespace)
		}
	}
	t.Fatalf("no members Service in %s", namespace)
	return ""
}

func serviceName(service, namespace string) string {
	return service + "." + namespace + ".svc.cluster.local."
}

// outcome is what became of a connection.
type lieOutcome struct {
	plaintext bool
	identity  string
	err       error
	took      time.Duration
}

func (o lieOutcome) String() string {
	switch {
	case o.plaintext:
		return "plaintext"
	case o.identity != "":
		return "mutual TLS with " + o.identity
	}
	return fmt.Sprintf("refused (%v)", o.err)
}

// tell starts a client of each edition under the lie, so that no cache knows better, and dials every target.
func (a *attack) tell(t *testing.T, l lie) map[string]map[string]lieOutcome {
	t.Helper()
	if l.tell != nil {
		a.Lie(l.tell(a))
		defer a.Lie(nil)
	}
	all := map[string]map[string]lieOutcome{}
	for edition, objects := range map[string]*lab.Objects{"before": a.before, "this": a.this} {
		if err := a.Apply(objects); err != nil {
			t.Fatal(err)
		}
		a.clients++
		client := a.Start("Deployment/data/one", lab.PodOptions{Ordinal: a.clients})
		all[edition] = a.dialAll(t, client)
	}
	return all
}

func (a *attack) dialAll(t *testing.T, client *lab.Pod) map[string]lieOutcome {
	t.Helper()
	s := newSpeaker()
	s.watch(a.Lab, client)
	said := map[string]*spoken{}
	outcomes := map[string]lieOutcome{}
	var mu sync.Mutex // guards both
	var dialed sync.WaitGroup
	for _, target := range a.targets() {
		dialed.Go(func() {
			began := time.Now()
			one := s.speakTo(client, netip.AddrPortFrom(target.to, reachPort))
			took := time.Since(began)
			mu.Lock()
			defer mu.Unlock()
			said[target.name], outcomes[target.name] = one, lieOutcome{err: one.err, took: took}
		})
	}
	dialed.Wait()
	s.stopWatches(t)
	for name, one := range said {
		o := outcomes[name]
		o.plaintext = s.watches[client].Saw(one.mark)
		if one.err == nil {
			o.identity = logged(t, client, one).Identity
		}
		outcomes[name] = o
	}
	return outcomes
}

// lie is what the attacker answers, and what must come of it beyond the law.
type lie struct {
	name string
	tell func(a *attack) func(query, honest *dns.Msg) *dns.Msg
	want map[string]string // by target: how the outcome begins
}

const (
	victim = "mutual TLS with spiffe://cluster.local/ns/data/deployment/plain"
	thief  = "mutual TLS with spiffe://cluster.local/ns/evil/deployment/thief"
)

var lies = []lie{
	{"the control: the truth", nil, map[string]string{"victim's Service": victim, "victim's pod": victim, "attacker's mesh pod": thief, "attacker's pod": "plaintext"}},
	{"no address has a name", func(*attack) func(_, _ *dns.Msg) *dns.Msg {
		return forAll(func(q dns.Question) bool { return q.Qtype == dns.TypePTR }, deny)
	}, map[string]string{"victim's Service": victim, "victim's pod": victim}},
	{"nothing has a name", func(*attack) func(_, _ *dns.Msg) *dns.Msg {
		return forAll(func(dns.Question) bool { return true }, deny)
	}, nil},
	{"no members", func(*attack) func(_, _ *dns.Msg) *dns.Msg { return without(api.MembersPrefix) },
		map[string]string{"victim's Service": victim, "victim's pod": victim}},
	{"no aliases", func(*attack) func(_, _ *dns.Msg) *dns.Msg { return without("meshless-alias-") }, map[string]string{"victim's Service": victim}},
	{"every name is an alias", func(a *attack) func(_, _ *dns.Msg) *dns.Msg {
		return forAll(func(q dns.Question) bool { return strings.HasPrefix(q.Name, "meshless-alias-") && q.Qtype == dns.TypeA },
			records("%s 5 IN A "+a.sniff.IP4.String()))
	}, nil},
	{"the attacker's pods are members of the victims, by their names", func(a *attack) func(_, _ *dns.Msg) *dns.Msg {
		return a.forge(map[netip.Addr]string{a.thief.IP4: a.members, a.sniff.IP4: a.members}, false)
	}, nil},
	{"the attacker's pods are members of the victims, confirmed", func(a *attack) func(_, _ *dns.Msg) *dns.Msg {
		return a.forge(map[netip.Addr]string{a.thief.IP4: a.members, a.sniff.IP4: a.members}, true)
	}, map[string]string{"attacker's mesh pod": "refused", "attacker's pod": "refused"}},
	{"the victims are members of the attacker", func(a *attack) func(_, _ *dns.Msg) *dns.Msg {
		return a.forge(map[netip.Addr]string{a.plain.IP4: a.evilMembers, a.ServiceIP(dataNamespace, "plain", 4): a.evilMembers}, true)
	}, nil},
	{"the victims are another Service of their namespace", func(a *attack) func(_, _ *dns.Msg) *dns.Msg {
		other := serviceName("other", dataNamespace)
		return a.forge(map[netip.Addr]string{a.plain.IP4: other, a.ServiceIP(dataNamespace, "plain", 4): other}, true)
	}, nil},
	{"the attacker's pods are a Service of the victims' namespace", func(a *attack) func(_, _ *dns.Msg) *dns.Msg {
		other := serviceName("other", dataNamespace)
		return a.forge(map[netip.Addr]string{a.thief.IP4: other, a.sniff.IP4: other}, true)
	}, map[string]string{"attacker's mesh pod": "refused"}}, // it answers the trial, as somebody else
	{"the attacker's pods are the victims' Service", func(a *attack) func(_, _ *dns.Msg) *dns.Msg {
		service := serviceName("plain", dataNamespace)
		return a.forge(map[netip.Addr]string{a.thief.IP4: service, a.sniff.IP4: service}, true)
	}, map[string]string{"attacker's mesh pod": "refused", "attacker's pod": "refused"}},
	{"the victims are outside", func(a *attack) func(_, _ *dns.Msg) *dns.Msg {
		legacy := serviceName("legacy", "legacy")
		return a.forge(map[netip.Addr]string{a.plain.IP4: legacy, a.ServiceIP(dataNamespace, "plain", 4): legacy}, true)
	}, nil},
	{"a thousand names", func(a *attack) func(_, _ *dns.Msg) *dns.Msg { return huge(dns.TypePTR) }, nil},
	{"three thousand addresses", func(a *attack) func(_, _ *dns.Msg) *dns.Msg { return huge(dns.TypeA) }, nil},
	{"no answer", func(*attack) func(_, _ *dns.Msg) *dns.Msg { return func(_, _ *dns.Msg) *dns.Msg { return nil } }, nil},
	{"late answers", func(*attack) func(_, _ *dns.Msg) *dns.Msg {
		return func(_, honest *dns.Msg) *dns.Msg { time.Sleep(1500 * time.Millisecond); return honest }
	}, nil},
	{"failures", func(*attack) func(_, _ *dns.Msg) *dns.Msg {
		return func(query, _ *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(query, dns.RcodeServerFailure) }
	}, nil},
	{"only the members fail", func(*attack) func(_, _ *dns.Msg) *dns.Msg {
		return forAll(func(q dns.Question) bool { return strings.Contains(q.Name, api.MembersPrefix) },
			func(query *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(query, dns.RcodeServerFailure) })
	}, map[string]string{"victim's Service": victim}},
	{"the answer to another question", func(*attack) func(_, _ *dns.Msg) *dns.Msg {
		return func(query, honest *dns.Msg) *dns.Msg {
			answer := honest.Copy()
			answer.Question[0].Name = "other." + answer.Question[0].Name
			return answer
		}
	}, nil},
}

// forAll answers the questions that are meant, and leaves the others to the truth.
func forAll(meant func(dns.Question) bool, answer func(query *dns.Msg) *dns.Msg) func(_, _ *dns.Msg) *dns.Msg {
	return func(query, honest *dns.Msg) *dns.Msg {
		if q := query.Question[0]; meant(q) {
			return answer(query)
		}
		return honest
	}
}

func deny(query *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(query, dns.RcodeNameError) }

// records answers with records in the form of zone files, in which %s is the name that was asked for.
func records(lines ...string) func(query *dns.Msg) *dns.Msg {
	return func(query *dns.Msg) *dns.Msg {
		answer := new(dns.Msg).SetReply(query)
		answer.Authoritative = true
		for _, line := range lines {
			rr, err := dns.NewRR(strings.ReplaceAll(line, "%s", query.Question[0].Name))
			if err != nil {
				panic(err) // a mistake of this file
			}
			answer.Answer = append(answer.Answer, rr)
		}
		return answer
	}
}

// without hides the Services whose names begin so: their own records, and the names that they give to addresses.
func without(prefix string) func(_, _ *dns.Msg) *dns.Msg {
	return func(query, honest *dns.Msg) *dns.Msg {
		if strings.Contains(query.Question[0].Name, prefix) {
			return deny(query)
		}
		answer := honest.Copy()
		answer.Answer = nil
		for _, rr := range honest.Answer {
			if !strings.Contains(rr.String(), prefix) {
				answer.Answer = append(answer.Answer, rr)
			}
		}
		if len(answer.Answer) == 0 && len(honest.Answer) > 0 {
			return deny(query)
		}
		return answer
	}
}

// forge names addresses as endpoints of Services, and only so; confirmed says the same to who asks the other way.
func (a *attack) forge(services map[netip.Addr]string, confirmed bool) func(_, _ *dns.Msg) *dns.Msg {
	forged := map[string][]string{} // by question
	for addr, service := range services {
		endpoint := strings.ReplaceAll(addr.String(), ".", "-") + "." + service
		reverse, _ := dns.ReverseAddr(addr.String()) // of an address
		forged[reverse+"PTR"] = []string{"%s 5 IN PTR " + endpoint}
		if confirmed {
			forged[endpoint+"A"] = []string{"%s 5 IN A " + addr.String()}
			forged[service+"A"] = append(forged[service+"A"], "%s 5 IN A "+addr.String())
		}
	}
	return func(query, honest *dns.Msg) *dns.Msg {
		q := query.Question[0]
		if lines := forged[strings.ToLower(q.Name)+dns.TypeToString[q.Qtype]]; lines != nil {
			return records(lines...)(query)
		}
		return honest
	}
}

// huge adds records of a type to each answer that has some, and to each about a name that has none.
func huge(kind uint16) func(_, _ *dns.Msg) *dns.Msg {
	return func(query, honest *dns.Msg) *dns.Msg {
		if query.Question[0].Qtype != kind {
			return honest
		}
		var lines []string
		for i := range 3_000 {
			if kind == dns.TypeA {
				lines = append(lines, fmt.Sprintf("%%s 5 IN A 10.77.%d.%d", i/250, i%250))
			} else if i < 1000 {
				lines = append(lines, fmt.Sprintf("%%s 5 IN PTR e%d.s%d.legacy.svc.cluster.local.", i, i))
			}
		}
		answer := records(lines...)(query)
		answer.Answer = append(honest.Answer, answer.Answer...)
		return answer
	}
}
