package ledger

import (
	"strconv"

	"flashgate/sale"
)

// script is the text of statements, without arguments, that go to the server in one
// packet: most often a whole transaction, which then costs one round trip, and in which
// nothing can freeze between its locks and its commit.
type script struct {
	dialect dialect
	text    []byte
	ends    []int         // where each statement ends in text
	expects []expectation // parallel to ends
	packing []byte        // memory for packing payloads, used again and again
	// firstOutboxID is set by exec: the id of the first row that the statement
	// for outboxInsert made, 0 when there was none; the others follow in steps.
	firstOutboxID int64
}

// expectation says what exec has to look at after a statement, and of how many rows.
type expectation struct {
	what attention
	rows int
}

type attention uint8

const (
	plain        attention = iota
	selects                // has a result set (query only)
	outboxInsert           // learn the ids of its rows
	exactly                // so many rows must have been changed (SQLite)
)

func newScript(d dialect) *script { return &script{dialect: d} }

func (s *script) reset() {
	s.text, s.ends, s.expects, s.firstOutboxID = s.text[:0], s.ends[:0], s.expects[:0], 0
}

// end closes the statement that was being appended.
func (s *script) end() { s.endWith(plain, 0) }

func (s *script) endWith(what attention, rows int) {
	s.text = append(s.text, ';')
	s.ends = append(s.ends, len(s.text))
	s.expects = append(s.expects, expectation{what, rows})
}

// statement appends a whole statement.
func (s *script) statement(sql string) {
	s.text = append(s.text, sql...)
	s.end()
}

func (s *script) raw(sql string) { s.text = append(s.text, sql...) }
func (s *script) str(v string)   { s.text = s.dialect.appendString(s.text, v) }
func (s *script) bytes(v []byte) { s.text = s.dialect.appendBytes(s.text, v) }
func (s *script) int(v int64)    { s.text = strconv.AppendInt(s.text, v, 10) }

// comma separates the items of a list; i is the number of the one that follows.
func (s *script) comma(i int) {
	if i > 0 {
		s.text = append(s.text, ',')
	}
}

// row appends the i-th row of an INSERT; its values are strings, byte slices and
// integers.
func (s *script) row(i int, values ...any) {
	s.comma(i)
	s.raw("(")
	for n, v := range values {
		s.comma(n)
		switch v := v.(type) {
		case string:
			s.str(v)
		case []byte:
			s.bytes(v)
		case int64:
			s.int(v)
		case int:
			s.int(int64(v))
		}
	}
	s.raw(")")
}

// ids and strs append lists, for IN.
func (s *script) ids(ids []sale.OrderID) {
	for i := range ids {
		s.comma(i)
		s.bytes(ids[i][:])
	}
}

func (s *script) strs(values []string) {
	for i, v := range values {
		s.comma(i)
		s.str(v)
	}
}

// whereStock ends an update of one stock row, which has to be there.
func (s *script) whereStock(sku string, segment int) {
	s.raw(" WHERE sku=")
	s.str(sku)
	s.raw(" AND segment=")
	s.int(int64(segment))
	s.dialect.endExactly(s, 1)
}
