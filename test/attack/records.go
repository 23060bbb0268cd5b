package attack

// records: the record layer.
var records = []Attack{
	{Name: "new keys again and again, with or without data", From: Member, Outcome: "the connection ends with unexpected_message",
		Test: "proxy/record.TestAttacks"},
	{Name: "new keys at nearly every record, from many connections", From: Member, Outcome: "these end; others of the loop go on",
		Test: "proxy/relay.TestNewKeysStarveOthers"},
	{Name: "a storm of requests for new keys, for all that was sent to it", From: Member, Outcome: "one answer for each flight, 4,096 at most",
		Test: "proxy/record.TestStormIsBounded"},
	{Name: "records without data, at once", From: Member, Outcome: "16 between data, then unexpected_message", Test: "proxy/record.TestBudgetsOfTime"},
	{Name: "random records: padded, fragmented, out of order, broken, floods", From: Member, Outcome: "exact bytes, and the alert of the RFC",
		Test: "proxy/record.TestSequences"},
	{Name: "the same over TCP, as client and as server", From: Member, Outcome: "exact bytes for the app, and the right end", Test: "proxy/relay.TestSequences"},
	{Name: "records between the parts of a handshake message", From: Member, Outcome: "unexpected_message", Test: "proxy/record.TestInterleaved"},
	{Name: "plaintext behind the handshake, in pieces", From: Neighbor, Outcome: "refused at its first byte", Test: "proxy/record.TestPlaintextInPieces"},
	{Name: "records replayed, left out, reordered, altered", From: Neighbor, Outcome: "bad_record_mac; nothing is delivered", Test: "proxy/record.TestAttacks"},
	{Name: "the TCP stream cut", From: Neighbor, Outcome: "no end for the app, but a reset", Test: "proxy/relay.TestCutIsNoEnd"},
	{Name: "a request for new keys after our half-close, with crypto/tls's records", From: Member, Outcome: "no byte is lost",
		Test: "proxy/relay.TestHalfCloseKeepsTheRest"},
}
