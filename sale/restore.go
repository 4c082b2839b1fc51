package sale

// RestoreResult is what became of one published order that was offered to a ledger
// which may have lost it: a closed set. Zero means that it was not decided.
type RestoreResult uint8

// The results, shown as their names.
const (
	RestoreDone       RestoreResult = iota + 1 // the ledger lacked the order, or its latest status, and has it now
	RestoreExists                              // the ledger has the order, in this status or a later one
	RestoreDifferent                           // the ledger has another order, or another history, under this id
	RestoreNoStock                             // its units are no longer there
	RestoreOverLimit                           // its buyer holds too many units by now
	RestoreUnknownSKU                          // the ledger has no such SKU
	RestoreArchived                            // the SKU's archive has been deleted for its age, and this one with it
)

var restoreResultNames = [...]string{
	RestoreDone: "restored", RestoreExists: "exists", RestoreDifferent: "exists_with_different",
	RestoreNoStock: "no_stock", RestoreOverLimit: "over_limit", RestoreUnknownSKU: "unknown_sku", RestoreArchived: "archived",
}

// String is its name, as it is stored and shown.
func (r RestoreResult) String() string { return nameOf(restoreResultNames[:], int(r)) }
