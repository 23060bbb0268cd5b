// Package apply puts the rules of package rules into the kernel of the calling thread's network namespace: nftables over
// netlink, in one transaction, so that no packet meets half a rule set and a second run replaces instead of adding. It then reads
// the rules back, compares them expression by expression, and prints what the kernel holds.
//
// It fails closed: whatever it cannot do, read or recognise is an error, the init container then fails, and the app is not started. It needs
// Linux 5.2 (nat chains in tables of family inet) and the capability NET_ADMIN, nothing else: no nft binary, no lock
// file, no writable file system. On other systems it compiles, and says that it needs Linux.
package apply
