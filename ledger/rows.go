package ledger

import (
	"database/sql"
	"slices"

	"flashgate/ledger/dialect"
)

// The reads of a group, one statement each over all its jobs. The rows come in key
// order: the lists are sorted, and the primary key is forced, because a scan of a
// small table would lock every row in it.

type stockKey struct {
	sku     string
	segment int
}

func newKnowledge(jobs []*job) []*knowledge {
	k := make([]*knowledge, len(jobs))
	for i := range k {
		k[i] = &knowledge{units: make(map[string]int64)}
	}
	return k
}

// indexJobs finds a job by its SKU.
func indexJobs(jobs []*job) map[string]int {
	index := make(map[string]int, len(jobs))
	for i, j := range jobs {
		index[j.sku.Name] = i
	}
	return index
}

func appendOrdersRead(s *dialect.Script, jobs []*job, tail string) {
	s.Raw("SELECT " + orderColumns + " FROM orders" + s.Dialect.ByPrimaryKey() + " WHERE order_id IN (")
	n := 0
	for _, j := range jobs {
		for _, p := range j.parts {
			for i := range p.call.asks {
				s.Comma(n)
				s.Bytes(p.call.asks[i].claim.ID[:])
				n++
			}
		}
	}
	s.Raw(") ORDER BY order_id" + tail)
	s.EndWith(dialect.Selects, 0)
}

func appendBuyersRead(s *dialect.Script, jobs []*job, tail string) {
	s.Raw("SELECT sku, user_id, units FROM buyers" + s.Dialect.ByPrimaryKey() + " WHERE ")
	any := false
	for _, j := range jobs {
		if j.sku.PerUserLimit == 0 {
			continue
		}
		if any {
			s.Raw(" OR ")
		}
		any = true
		s.Raw("(sku=")
		s.Str(j.sku.Name)
		s.Raw(" AND user_id IN (")
		s.Strs(usersOf(j))
		s.Raw("))")
	}
	if !any {
		s.Raw("sku=''")
	}
	s.Raw(" ORDER BY sku, user_id" + tail)
	s.EndWith(dialect.Selects, 0)
}

func usersOf(j *job) []string {
	users := make([]string, 0, j.claims())
	for _, p := range j.parts {
		for i := range p.call.asks {
			users = append(users, p.call.asks[i].claim.User)
		}
	}
	slices.Sort(users)
	return slices.Compact(users)
}

func scanBuyer(r *sql.Rows, index map[string]int, k []*knowledge) error {
	var sku, user string
	var units int64
	if err := r.Scan(&sku, &user, &units); err != nil {
		return err
	}
	if i, ok := index[sku]; ok {
		k[i].units[user] = units
	}
	return nil
}

func appendSKUList(s *dialect.Script, jobs []*job) {
	for i, j := range jobs {
		s.Comma(i)
		s.Str(j.sku.Name)
	}
}

func appendStockRead(s *dialect.Script, jobs []*job, tail string) {
	s.Raw("SELECT sku, segment, total, reserved, sold, sku_version FROM stock" + s.Dialect.ByPrimaryKey() + " WHERE sku IN (")
	appendSKUList(s, jobs)
	s.Raw(") ORDER BY sku, segment" + tail)
	s.EndWith(dialect.Selects, 0)
}

// scanStock also notes which version of its SKU the row knows, where versions is given.
func scanStock(r *sql.Rows, index map[string]int, k []*knowledge, versions map[stockKey]int64) error {
	var sku string
	var version int64
	var st segmentStock
	if err := r.Scan(&sku, &st.segment, &st.Total, &st.Reserved, &st.Sold, &version); err != nil {
		return err
	}
	if i, ok := index[sku]; ok {
		k[i].stock = append(k[i].stock, st)
	}
	if versions != nil {
		versions[stockKey{sku, st.segment}] = version
	}
	return nil
}

func appendSKUsRead(s *dialect.Script, jobs []*job) {
	s.Raw("SELECT " + skuColumns + " FROM skus WHERE sku IN (")
	appendSKUList(s, jobs)
	s.Raw(")")
	s.EndWith(dialect.Selects, 0)
}
