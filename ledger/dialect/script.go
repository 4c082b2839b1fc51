package dialect

import (
	"errors"
	"strconv"

	"flashgate/sale"
)

// Script is the text of statements, without arguments, that go to the server in one
// packet: most often a whole transaction, which then costs one round trip, and in which
// nothing can freeze between its locks and its commit.
type Script struct {
	Dialect Dialect
	Text    []byte        // so far
	ends    []int         // where each statement ends in text
	expects []expectation // parallel to ends
	Packing []byte        // memory for packing payloads, used again and again
	// FirstOutboxID is set by Exec: the id of the first row that the statement
	// for OutboxInsert made, 0 when there was none; the others follow in steps.
	FirstOutboxID int64
}

// expectation says what Exec has to look at after a statement, and of how many rows.
type expectation struct {
	what Attention
	rows int
}

// Attention is what has to be looked at.
type Attention uint8

// What statements ask for, besides plain ones.
const (
	plain        Attention = iota
	Selects                // has a result set (query only)
	OutboxInsert           // learn the ids of its rows
	exactly                // so many rows must have been changed (SQLite)
)

// NewScript returns an empty script.
func NewScript(d Dialect) *Script { return &Script{Dialect: d} }

// Reset empties it; its memory is used again.
func (s *Script) Reset() {
	s.Text, s.ends, s.expects, s.FirstOutboxID = s.Text[:0], s.ends[:0], s.expects[:0], 0
}

// End closes the statement that was being appended.
func (s *Script) End() { s.EndWith(plain, 0) }

// EndWith closes it with something to be looked at, of so many rows.
func (s *Script) EndWith(what Attention, rows int) {
	s.Text = append(s.Text, ';')
	s.ends = append(s.ends, len(s.Text))
	s.expects = append(s.expects, expectation{what, rows})
}

// Statement appends a whole statement.
func (s *Script) Statement(sql string) {
	s.Text = append(s.Text, sql...)
	s.End()
}

// Raw appends SQL as it is.
func (s *Script) Raw(sql string) { s.Text = append(s.Text, sql...) }

// Str appends a text literal.
func (s *Script) Str(v string) { s.Text = s.Dialect.AppendString(s.Text, v) }

// Bytes appends a binary literal.
func (s *Script) Bytes(v []byte) { s.Text = s.Dialect.AppendBytes(s.Text, v) }

// Int appends a number.
func (s *Script) Int(v int64) { s.Text = strconv.AppendInt(s.Text, v, 10) }

// Comma separates the items of a list; i is the number of the one that follows.
func (s *Script) Comma(i int) {
	if i > 0 {
		s.Text = append(s.Text, ',')
	}
}

// Row appends the i-th row of an INSERT; its values are strings, byte slices and
// integers.
func (s *Script) Row(i int, values ...any) {
	s.Comma(i)
	s.Raw("(")
	for n, v := range values {
		s.Comma(n)
		switch v := v.(type) {
		case string:
			s.Str(v)
		case []byte:
			s.Bytes(v)
		case int64:
			s.Int(v)
		case int:
			s.Int(int64(v))
		}
	}
	s.Raw(")")
}

// IDs appends order ids, for an IN.
func (s *Script) IDs(ids []sale.OrderID) {
	for i := range ids {
		s.Comma(i)
		s.Bytes(ids[i][:])
	}
}

// Strs appends text literals.
func (s *Script) Strs(values []string) {
	for i, v := range values {
		s.Comma(i)
		s.Str(v)
	}
}

// WhereStock ends an update of one stock row, which has to be there.
func (s *Script) WhereStock(sku string, segment int) {
	s.Raw(" WHERE sku=")
	s.Str(sku)
	s.Raw(" AND segment=")
	s.Int(int64(segment))
	s.Dialect.EndExactly(s, 1)
}

// ResultSet is what a query returns, on a connection of its own or not.
type ResultSet interface {
	Scan(dest ...any) error
	Next() bool
	Err() error
	Close() error
}

// CloseRows joins what a result set has still to say to the error at hand.
func CloseRows(rows ResultSet, err error) error {
	return errors.Join(err, rows.Err(), rows.Close())
}
