// Package private closes what a process holds to other processes of its user: its memory, the environment that it was
// started with, and the descriptors that it was given. Both programs that hold keys use it, meshless and the proxy.
//
// On Linux other processes of the same user see nothing of the three. Root does see memory. On other systems the calls
// do nothing: there the environment can be read as long as the process lives (`ps -E` on macOS).
package private
