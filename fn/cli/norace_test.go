//go:build !race

package cli

// underRace says that the race detector runs.
const underRace = false
