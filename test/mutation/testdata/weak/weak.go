// Package weak is a package whose tests hold half of it.
package weak

import "errors"

// Min is held by a test.
func Min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

// Check is not.
func Check(n int) error {
	if n > 7 {
		return errors.New("too many")
	}
	return nil
}
