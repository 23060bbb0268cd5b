//go:build !linux

package sandbox

// Program is nothing here.
type Program struct{}

// OwnProgram finds nothing here.
func OwnProgram() Program { return Program{} }

// Release does nothing here.
func (Program) Release() {}
