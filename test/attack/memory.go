package attack

// memory: what members can make a proxy hold.
var memory = []Attack{
	{"records of 16 KiB whose last byte never comes, on hundreds of connections", Member, "the sum is bounded; that member's connections end, others are served", "proxy/relay.TestPartialRecords"},
	{"records that are announced by five bytes", Member, "they hold no more than half a KiB each", "proxy/relay.TestClaimedRecords"},
	{"a record that comes byte by byte", Member, "it ends after half a minute; data that the app does not read never does", "proxy/relay.TestTrickledRecord"},
	{"answers that are not read, with the smallest windows", Member, "the sum with the kernel's queues is bounded; that member's connections end, others are served", "proxy/relay.TestUnreadAnswers"},
	{"the same on ports that take plaintext", Stranger, "the same, by the stranger's address", "proxy/relay.TestUnreadAnswersWithoutTLS"},
	{"answers that are not read, while much is sent", Member, "what one direction moves does not pay for the other", "proxy/relay.TestBusySenderHoldsNothing"},
	{"slow readers where memory is short", Member, "nothing is read for them, so they hold nothing", "proxy/relay.TestSlowReadersHoldNothing"},
	{"broken records from peers that stay and go on writing", Member, "64 linger for a second at most, the others are closed at once", "proxy/relay.TestLingersAreFew"},
	{"a peer that is gone without a word", Mishap, "keepalive finds it within two minutes, and the other end sees a reset", "proxy/relay.TestDeadPeerIsPassedOn"},
	{"silence for longer than any limit of before", Mishap, "the connection stays", "proxy/relay.TestQuietSessionsStay"},
}
