package ledger

import (
	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// scope is the SKUs that a check looks at: nil is all of them. It is said as conditions, to
// be added to a WHERE.
type scope struct {
	dialect dialect.Dialect
	skus    []string
}

// scopeChunk is how many SKUs one statement is about.
const scopeChunk = 100

// names are the rows whose column is one of the SKUs.
func (c scope) names(column string) string {
	if c.skus == nil {
		return ""
	}
	s := dialect.NewScript(c.dialect)
	s.Raw(" AND " + column + " IN (")
	s.Strs(c.skus)
	s.Raw(")")
	return string(s.Text)
}

// ids are the rows whose order id may be one of the SKUs' orders: ranges of the key. Those
// of a SKU whose hash begins alike are among them.
func (c scope) ids(column string) string {
	if c.skus == nil {
		return ""
	}
	s := dialect.NewScript(c.dialect)
	for i, sku := range c.skus {
		s.Raw(map[bool]string{true: " AND (", false: " OR "}[i == 0])
		first, last := sale.OrderIDsOf(sku)
		s.Raw(column + " BETWEEN ")
		s.Bytes(first[:])
		s.Raw(" AND ")
		s.Bytes(last[:])
	}
	s.Raw(")")
	return string(s.Text)
}

// orders are the SKUs' rows of orders, as alias.
func (c scope) orders(alias string) string {
	return c.ids(alias+".order_id") + c.names(alias+".sku")
}
