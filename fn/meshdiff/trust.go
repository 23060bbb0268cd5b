package meshdiff

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/meshless-dev/meshless/internal/svid"
)

// compareTrust compares whom the pods trust: authorities, other trust domains, revoked keys.
func (c *comparison) compareTrust() {
	before, now := c.base.trusts(), c.head.trusts()
	for who, in := range now {
		gained := added(before[who], in)
		if before[who] != nil { // a namespace that enters the mesh trusts what the others do
			gained = slices.DeleteFunc(gained, func(namespace string) bool { return c.base.maps[namespace] == nil })
		}
		if len(gained) > 0 {
			c.say(trust, Weaker, "%s is trusted%s", who, c.head.where(gained))
		}
	}
	for who, in := range before {
		lost := added(now[who], in)
		if now[who] != nil {
			lost = slices.DeleteFunc(lost, func(namespace string) bool { return c.head.maps[namespace] == nil })
		}
		if len(lost) > 0 {
			c.say(trust, Lost, "%s is trusted no longer%s", who, c.base.where(lost))
		}
	}
	for key, revoked := range c.head.state.Revoked {
		if _, listed := c.base.state.Revoked[key]; !listed {
			c.say(trust, Gained, "key %s is revoked%s", key, ofWhom(revoked.SPIFFEID))
		}
	}
	for key, revoked := range c.base.state.Revoked {
		if _, listed := c.head.state.Revoked[key]; !listed {
			over := !revoked.Until.IsZero() && c.now.After(revoked.Until.Time)
			c.sayIf(trust, over, Lost, Weaker, "key %s is revoked no longer%s", key, ofWhom(revoked.SPIFFEID))
		}
	}
}

func ofWhom(identity string) string {
	if identity == "" {
		return ""
	}
	return ", of " + identity
}

// where names namespaces, unless they are all of the mesh.
func (s *Side) where(namespaces []string) string {
	if len(namespaces) >= len(s.maps) {
		return ""
	}
	return " in namespace " + strings.Join(slices.Sorted(slices.Values(namespaces)), ", ")
}

// trusts are the authorities of the bundles and the federated trust domains, with the namespaces that trust them.
func (s *Side) trusts() map[string][]string {
	in := map[string][]string{}
	for namespace, bundle := range s.state.Bundles {
		for _, certificate := range bundle.Authorities {
			sum := sha256.Sum256(certificate.Raw)
			who := fmt.Sprintf("authority %q (SHA-256 %s)", certificate.Subject.CommonName, hex.EncodeToString(sum[:])[:16])
			in[who] = append(in[who], namespace)
		}
	}
	for namespace, m := range s.maps {
		for _, f := range m.Federation {
			sum := sha256.Sum256([]byte(f.Bundle))
			who := fmt.Sprintf("trust domain %s (SHA-256 of its bundle %s)", f.TrustDomain, hex.EncodeToString(sum[:])[:16])
			in[who] = append(in[who], namespace)
		}
	}
	return in
}

// compareCertificates counts: a renewal touches many, and each is named by its workload anyway.
func (c *comparison) compareCertificates() {
	var issued, renewed, removed []string
	for identity, leaf := range c.head.state.Leaves {
		was, there := c.base.state.Leaves[identity]
		switch {
		case !there:
			issued = append(issued, identity)
		case !was.Certificate.Equal(leaf.Certificate) && svid.KeyDigest(was.Certificate) == svid.KeyDigest(leaf.Certificate):
			renewed = append(renewed, identity+" (the same key)")
		case !was.Certificate.Equal(leaf.Certificate):
			renewed = append(renewed, identity)
		}
	}
	for identity := range c.base.state.Leaves {
		if _, there := c.head.state.Leaves[identity]; !there {
			removed = append(removed, identity)
		}
	}
	for _, counted := range []struct {
		mark  Mark
		what  string
		names []string
	}{{Gained, "issued", issued}, {Changed, "renewed", renewed}, {Lost, "removed", removed}} {
		if len(counted.names) > 0 {
			for i, name := range counted.names {
				counted.names[i] = oneLine(name)
			}
			slices.Sort(counted.names)
			c.say(certificates, counted.mark, "certificates: %d %s", len(counted.names), counted.what)
			c.changes[len(c.changes)-1].Names = counted.names
		}
	}
}

// compareImages compares the images of proxies and init containers. Two of one repository are one change.
func (c *comparison) compareImages() {
	before, now := byRepository(added(c.head.images, c.base.images)), byRepository(added(c.base.images, c.head.images))
	both := maps.Clone(now)
	maps.Copy(both, before)
	for repository := range both {
		switch was, is := strings.Join(before[repository], ", "), strings.Join(now[repository], ", "); {
		case was == "":
			c.say(images, Gained, "image: %s", is)
		case is == "":
			c.say(images, Lost, "image: %s", was)
		default:
			c.say(images, Changed, "image: %s → %s", was, is)
		}
	}
}

// byRepository are images by their names without tag and digest.
func byRepository(images []string) map[string][]string {
	found := map[string][]string{}
	for _, image := range images {
		repository, _, _ := strings.Cut(image, "@")
		if i := strings.LastIndex(repository, ":"); i > strings.LastIndex(repository, "/") {
			repository = repository[:i]
		}
		found[repository] = append(found[repository], image)
	}
	return found
}
