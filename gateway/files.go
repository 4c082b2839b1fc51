package gateway

// Every connection is an open file, and so are those to Redis, the ledger, NATS and health
// checks, which must not lack one because buyers have them all.

// fileReserve is how many files are left for all that is no buyer's connection; of a small
// limit, a half.
const fileReserve = 512

// withinFiles is how many connections there may be of those that are wanted, where the
// process may open so many files; 0 is not known.
func withinFiles(wanted int, files uint64) int {
	if files == 0 {
		return wanted
	}
	return int(min(uint64(wanted), max(1, files-min(fileReserve, files/2))))
}
