//go:build race

package simulation

// underRace says that the race detector runs.
const underRace = true
