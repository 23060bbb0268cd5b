// Package attack lists what hostile peers, members, tenants, apps, neighbours and name servers were tried with, and by
// which test. The table in docs/security.md is generated from it. A test here holds that each named test exists.
package attack

import "slices"

// Origin is from whom an attack comes.
type Origin string

// The origins.
const (
	Stranger Origin = "stranger"         // a pod or host without a certificate of the mesh
	Member   Origin = "member"           // a workload with a good certificate
	Tenant   Origin = "tenant in Git"    // who may write some of what is rendered
	DNS      Origin = "DNS"              // who controls answers of the name server
	Neighbor Origin = "node neighbor"    // on the path, on the node, or beside the pod's rules
	App      Origin = "app"              // a container of the pod, without privilege
	Mishap   Origin = "nobody: a mishap" // a clock, a disk, a kubelet
)

// Attack is one attack and what becomes of it. All fields are set.
type Attack struct {
	Name    string // what is done, a few words
	From    Origin
	Outcome string // what it leads to, one short sentence
	Test    string // folder and name of the test, as "proxy/record.TestName"
}

// All are the attacks of all areas, in the order of the table.
func All() []Attack {
	return slices.Concat(redirect, canary, direct, chains, admission, memory, records, lifetime, secrets)
}
