package ledger

import (
	"testing"

	"pgregory.net/rapid"

	"flashgate/sale"
)

func TestDistribute(t *testing.T) {
	row := func(segment int, total, reserved, sold int64) segmentStock {
		return segmentStock{segment: segment, Stock: sale.Stock{Total: total, Reserved: reserved, Sold: sold}}
	}
	for _, c := range []struct {
		name     string
		rows     []segmentStock
		segments int
		stock    sale.Stock
		again    bool
		want     []segmentStock
	}{
		{"a new SKU", nil, 3, sale.Stock{Total: 11, Reserved: 1}, true, []segmentStock{row(0, 5, 1, 0), row(1, 3, 0, 0), row(2, 3, 0, 0)}},
		{"added units are dealt out", []segmentStock{row(0, 5, 0, 5), row(1, 5, 0, 0)}, 2, sale.Stock{Total: 14, Sold: 5}, false,
			[]segmentStock{row(0, 7, 0, 5), row(1, 7, 0, 0)}},
		{"taken units come from where they are", []segmentStock{row(0, 5, 0, 5), row(1, 5, 0, 0)}, 2, sale.Stock{Total: 6, Sold: 5}, false,
			[]segmentStock{row(0, 5, 0, 5), row(1, 1, 0, 0)}},
		{"more segments share anew", []segmentStock{row(0, 10, 0, 4)}, 2, sale.Stock{Total: 10, Sold: 4}, true,
			[]segmentStock{row(0, 7, 0, 4), row(1, 3, 0, 0)}},
		{"fewer segments keep what they sold", []segmentStock{row(0, 5, 0, 1), row(1, 5, 0, 3)}, 1, sale.Stock{Total: 10, Sold: 4}, true,
			[]segmentStock{row(0, 7, 0, 1), row(1, 3, 0, 3)}},
		{"what came back to a segment out of use is dealt out", []segmentStock{row(0, 5, 0, 5), row(1, 3, 0, 1)}, 1, sale.Stock{Total: 8, Sold: 6}, false,
			[]segmentStock{row(0, 7, 0, 5), row(1, 1, 0, 1)}},
		{"withheld units lie in the first", []segmentStock{row(0, 5, 0, 5), row(1, 5, 0, 0)}, 2, sale.Stock{Total: 10, Reserved: 5, Sold: 5}, false,
			[]segmentStock{row(0, 10, 5, 5), row(1, 0, 0, 0)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := distribute(c.rows, c.segments, c.stock, c.again)
			if len(got) != len(c.want) {
				t.Fatalf("got %+v", got)
			}
			for i := range got {
				if got[i] != c.want[i] {
					t.Errorf("row %d is %+v, want %+v", i, got[i], c.want[i])
				}
			}
		})
	}
}

func TestDistributeKeepsTheSums(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		segments := rapid.IntRange(1, 8).Draw(r, "segments")
		var rows []segmentStock
		for i := range rapid.IntRange(0, 8).Draw(r, "rows") {
			s := sale.Stock{Sold: rapid.Int64Range(0, 50).Draw(r, "sold"), Reserved: rapid.Int64Range(0, 50).Draw(r, "reserved")}
			s.Total = s.Sold + s.Reserved + rapid.Int64Range(0, 50).Draw(r, "free")
			rows = append(rows, segmentStock{segment: i, Stock: s})
		}
		stock := total(rows)
		stock.Reserved = rapid.Int64Range(0, 400).Draw(r, "reserved after")
		stock.Total = stock.Sold + stock.Reserved + rapid.Int64Range(0, 400).Draw(r, "free after")
		after := distribute(rows, segments, stock, rapid.Bool().Draw(r, "again"))
		if total(after) != stock {
			r.Fatalf("%+v became %+v together", stock, total(after))
		}
		for i, row := range after {
			if row.segment != i || row.Available() < 0 || row.Reserved < 0 {
				r.Fatalf("row %d is %+v", i, row)
			}
			if i < len(rows) && row.Sold != rows[i].Sold {
				r.Fatalf("what was sold moved: %+v became %+v", rows[i], row)
			}
			if i >= segments && row.Available() != 0 {
				r.Fatalf("free units lie in a segment out of use: %+v", row)
			}
		}
	})
}
