//go:build !race

package verify_test

// underRace says that the race detector runs.
const underRace = false
