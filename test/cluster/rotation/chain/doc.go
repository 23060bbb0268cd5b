// Package chain is an application for tests on a real cluster, and the folder in Git that it comes from: front calls
// middle, middle calls back, two replicas each, in the mesh, while a load asks from within the mesh without a pause. A
// test edits the folder and runs the real commands on it, as a user would; what the proxies say of themselves tells
// when they use what was applied. The load counts what failed, so that a test can say that nothing did.
package chain
