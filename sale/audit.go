package sale

// Finding is one place where an invariant does not hold.
type Finding struct {
	Check   string  // the check's name
	SKU     string  // empty where the finding is about no SKU
	OrderID OrderID // zero where it is about no order
	Detail  string  // what was found, in a sentence
}

// Checked is one invariant and what was found against it.
type Checked struct {
	Check    string // its name: lower case, underscores
	Promise  string // what is to hold, in a sentence
	Findings []Finding
	// More says that there are further findings, which were left out.
	More bool
}

// Repairs counts what a repair did.
type Repairs struct {
	Repaired int // rows that were wrong and are right now
	// Left are rows that cannot be made right within the constraints: somebody has to
	// decide what gives way. Or somebody holds them: the next repair comes to them.
	Left int
}
