// Package epoll is an event loop of Linux. It waits for the sockets of many connections, and gives turns to those that
// are ready. It knows descriptors and readiness; it does not know what is read and written. A socket that is idle holds
// neither a goroutine nor a buffer. One message costs three system calls, and no switch between goroutines: with the
// poller of Go's runtime these switches took as much time as all the rest.
package epoll
