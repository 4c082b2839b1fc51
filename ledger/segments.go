package ledger

import (
	"cmp"
	"slices"

	"flashgate/sale"
)

// total is the rows' figures together.
func total(rows []segmentStock) sale.Stock {
	var sum sale.Stock
	for _, r := range rows {
		sum.Total += r.Total
		sum.Reserved += r.Reserved
		sum.Sold += r.Sold
	}
	return sum
}

// distribute gives the rows of a SKU the figures that make up stock, whose Sold is the
// rows' own: what is sold stays where it is, what is withheld lies in segment 0, and
// what is free lies in the segments 0 to segments-1. With again, the free units are
// dealt out anew and evenly; else each row keeps what it has, and only the difference
// is dealt out or collected, so that what a shield knows of the rows stays nearly
// right. Stock must have no fewer than 0 units available.
func distribute(rows []segmentStock, segments int, stock sale.Stock, again bool) []segmentStock {
	after := slices.Clone(rows)
	for segment := range segments {
		if !slices.ContainsFunc(after, func(r segmentStock) bool { return r.segment == segment }) {
			after = append(after, segmentStock{segment: segment})
		}
	}
	slices.SortFunc(after, func(a, b segmentStock) int { return cmp.Compare(a.segment, b.segment) })

	// The first rows are the segments in use: they are numbered from 0 without a gap.
	free := make([]int64, len(after))
	kept := int64(0)
	for i, r := range after[:segments] {
		if !again {
			free[i] = max(0, r.Available())
			kept += free[i]
		}
	}
	if pool := stock.Available() - kept; pool >= 0 {
		deal(free[:segments], pool)
	} else {
		collect(free[:segments], -pool)
	}
	for i := range after {
		r := &after[i]
		r.Reserved = 0
		if i == 0 {
			r.Reserved = stock.Reserved
		}
		r.Total = r.Sold + r.Reserved + free[i]
	}
	return after
}

// deal adds units evenly.
func deal(free []int64, units int64) {
	n := int64(len(free))
	for i := range free {
		free[i] += units / n
		if int64(i) < units%n {
			free[i]++
		}
	}
}

// collect takes units from whoever has the most; there are that many.
func collect(free []int64, units int64) {
	for units > 0 {
		having := int64(0)
		for _, n := range free {
			if n > 0 {
				having++
			}
		}
		share := max(1, units/having)
		for i := range free {
			n := min(share, free[i], units)
			free[i] -= n
			units -= n
		}
	}
}
