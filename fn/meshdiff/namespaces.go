package meshdiff

import (
	"fmt"
	"maps"
	"slices"

	"github.com/meshless-dev/meshless/fn/graph"
	"github.com/meshless-dev/meshless/internal/meshmap"
)

// setting is what a mesh map says for a whole namespace. A value of a higher rank protects less.
type setting struct {
	name  string
	value func(*meshmap.Map) (text string, rank int)
}

var settings = []setting{
	{"inbound mode", func(m *meshmap.Map) (string, int) {
		return string(m.Inbound.Mode), rank(m.Inbound.Mode == meshmap.Permissive)
	}},
	{"authorization default", func(m *meshmap.Map) (string, int) {
		return string(m.Inbound.Default), rank(m.Inbound.Default == meshmap.AllowMesh)
	}},
	{"authorization mode", func(m *meshmap.Map) (string, int) {
		if m.Inbound.DryRun {
			return "DryRun", 1
		}
		return "Enforce", 0
	}},
	{"outbound unknown", func(m *meshmap.Map) (string, int) {
		return string(m.Outbound.Unknown), rank(m.Outbound.Unknown == meshmap.Passthrough)
	}},
}

func rank(weak bool) int {
	if weak {
		return 1
	}
	return 0
}

// compareNamespaces compares what holds for every workload of a namespace. Of one that enters the mesh all is said.
func (c *comparison) compareNamespaces() {
	for _, namespace := range c.namespaces() {
		was, is := c.base.maps[namespace], c.head.maps[namespace]
		switch {
		case is == nil:
			stays := slices.ContainsFunc(c.head.graph.Nodes, func(n graph.Node) bool {
				return n.Class == graph.Outside && n.Namespace == namespace
			})
			c.sayIf(namespaces, stays, Weaker, Lost, "namespace %s: leaves the mesh", namespace)
		case was == nil:
			c.sayEnters(namespace, is)
		default:
			for _, s := range settings {
				before, rankBefore := s.value(was)
				if now, rankNow := s.value(is); before != now {
					c.sayIf(namespaces, rankNow > rankBefore, Weaker, Changed, "namespace %s: %s %s → %s", namespace, s.name, before, now)
				}
			}
		}
	}
}

func (c *comparison) sayEnters(namespace string, m *meshmap.Map) {
	said := ""
	for _, s := range settings {
		text, _ := s.value(m)
		said += fmt.Sprintf(", %s %s", s.name, text)
	}
	open := m.Inbound.Mode == meshmap.Permissive || m.Inbound.DryRun
	c.sayIf(namespaces, open, Weaker, Gained, "namespace %s: enters the mesh%s", namespace, said)
}

// namespaces are those of either side, sorted.
func (c *comparison) namespaces() []string {
	both := maps.Clone(c.head.maps)
	maps.Copy(both, c.base.maps)
	return slices.Sorted(maps.Keys(both))
}

// inboundMode is the mode of a namespace, that of one outside of the mesh being the default.
func (s *Side) inboundMode(namespace string) meshmap.Mode {
	if m := s.maps[namespace]; m != nil {
		return m.Inbound.Mode
	}
	return meshmap.Strict
}
