package main

// equivalent are mutants that no test can kill, since they change nothing that a peer, a caller or an attacker could
// tell, each with the reason. One that is killed after all, or that is no mutant any more, is an error.
var equivalent = map[string]string{
	"open.go Missing: len(part) >= size => len(part) > size":   "of a whole record size-len(part) is 0, too",
	"open.go openOne: end >= 0 => end > 0":                     "a single zero then counts as the content type 0, which is refused by the same alert",
	"open.go openOne: 0 => 1":                                  "the same",
	"open.go next: 0 => 1 #5":                                  "the kind beside an error is not used",
	"open.go next: 0 => 1 #8":                                  "the same",
	"record.go seal: 1 => 2":                                   "the capacity of a copy that has room for its content type",
	"suite.go install: err != nil => (err != nil) && false #2": "HKDF gives twelve bytes of every hash",
	"suite.go install: err => nil #2":                          "the same",
}
