// Package apply puts the rules of package rules into the kernel of the calling thread's network namespace: nftables
// over netlink, in one transaction, so that no packet meets half a rule set and a second run replaces instead of
// adding. It then reads the rules back, compares them expression by expression, and prints what the kernel holds. Where
// a kernel lacks nftables it does the same with the programs iptables-restore and iptables-save, of either variant, in
// one commit for each table; rules that an earlier run left in another back end it takes out.
//
// It fails closed: whatever it cannot do, read or recognise is an error, the init container then fails, and the app is
// not started. It needs Linux 5.2 (nat chains in tables of family inet) and the capability NET_ADMIN, nothing else: no
// nft binary, no lock file, no writable file system; with the legacy iptables any kernel will do that has it, and
// NET_RAW is needed as well. On other systems it compiles, and says that it needs Linux.
package apply
