//go:build !linux

package private

// Memory does nothing here.
func Memory() error { return nil }

// Environment does nothing here.
func Environment(...string) error { return nil }

// Descriptors does nothing here.
func Descriptors() error { return nil }
