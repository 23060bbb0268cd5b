package attack

// redirect: what apps do to their sockets to get around the redirect, or what breaks their connections with it.
var redirect = []Attack{
	{"fifty options of sockets, before a connection and during it", App, "it goes through the proxy, and ends as without the option", "init/apply.TestMarksOut"},
	{"every value of `IP_TOS`, traffic class and `SO_PRIORITY`, one after the other", App, "it goes through the proxy, and lives on", "init/apply.TestMarksSweep"},
	{"the same on an accepted connection", App, "it lives on", "init/apply.TestMarksIn"},
	{"OpenSSH that changes `IP_TOS` on an open connection; git, scp, sftp, rsync over it", App, "they work, into the mesh and out of it", "test/kernel.TestSSH"},
	{"the priority of the proxy's sockets, and a close with data to send", App, "the data goes where it went before, all of it", "init/apply.TestMarkedOrphansDrain"},
	{"the same from the port of a connection of the proxy's that was reset", App, "nothing leaves past the proxy", "init/apply.TestMarkedOrphanMeetsStaleEntry"},
	{"the port of a connection of the proxy's that was reset, with any priority", App, "it is redirected; with iptables it is refused", "init/apply.TestMarkedInheritsNothing"},
	{"chosen addresses, devices, routes, multipath TCP, transparent and repaired sockets", App, "it goes through the proxy, or is refused", "init/apply.TestBypassOut"},
	{"connections from before the rules", App, "they are cut", "init/apply.TestBypassEstablished"},
	{"connections while init runs again and again", App, "all go through the proxy", "test/kernel.TestBypass"},
}
