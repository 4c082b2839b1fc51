package ledger

import (
	"slices"

	"flashgate/sale"
)

// knowledge is what the ledger knows of one SKU while its rows are locked: all that a
// decision needs.
type knowledge struct {
	now    int64     // the ledger's time, in ms, behind the locks
	sku    *sale.SKU // nil: the ledger has no such SKU
	orders map[sale.OrderID]sale.Order
	units  map[string]int64 // units of buyers' live orders; used where the SKU has a limit
	stock  []segmentStock   // by segment
}

// segmentStock is one stock row.
type segmentStock struct {
	segment int
	sale.Stock
	changed bool
}

// ruling is the decision on one SKU's claims and what has to be written for it.
type ruling struct {
	verdicts []sale.Verdict   // parallel to the asks
	orders   []*sale.Order    // new rows, in the order of the asks
	units    map[string]int64 // units to add to buyers
	stock    []segmentStock   // the rows as they have to be, changed or not
	left     map[int]int64    // available by segment, where stock refused a claim
}

// decide judges the asks one after the other; orders are made as of the time at. It is
// free of I/O: the same knowledge gives the same ruling. Precedence: duplicate or conflict, the
// sale's state, the buyer's limit, stock.
func decide(at int64, k *knowledge, asks []ask) ruling {
	r := ruling{verdicts: make([]sale.Verdict, len(asks)), stock: slices.Clone(k.stock)}
	fresh := make(map[sale.OrderID]*sale.Order)
	// Verdicts point into this array, so it must not move.
	made := make([]sale.Order, 0, len(asks))
	soldOut := false
	for i := range asks {
		c := asks[i].claim
		if o, ok := k.orders[c.ID]; ok {
			r.verdicts[i] = repeat(c, &o)
			continue
		}
		if o := fresh[c.ID]; o != nil {
			r.verdicts[i] = repeat(c, o)
			continue
		}
		if k.sku == nil {
			r.verdicts[i].Err = sale.ErrUnknownSKU
			continue
		}
		if gate := k.sku.Gate(k.now); gate != sale.Reserved {
			r.verdicts[i].Outcome = gate
			continue
		}
		if limit := k.sku.PerUserLimit; limit > 0 && k.units[c.User]+r.units[c.User]+c.Quantity > limit {
			r.verdicts[i].Outcome = sale.LimitReached
			continue
		}
		segment, ok := draw(r.stock, asks[i].segment, c.Quantity)
		if !ok {
			r.verdicts[i].Outcome = sale.SoldOut
			soldOut = true
			continue
		}
		made = append(made, sale.NewOrder(c, k.sku, segment, at))
		o := &made[len(made)-1]
		fresh[c.ID] = o
		r.orders = append(r.orders, o)
		if k.sku.PerUserLimit > 0 {
			if r.units == nil {
				r.units = make(map[string]int64)
			}
			r.units[c.User] += c.Quantity
		}
		r.verdicts[i] = sale.Verdict{Outcome: sale.Reserved, Order: o}
	}
	if soldOut {
		r.left = make(map[int]int64, len(r.stock))
		for _, s := range r.stock {
			r.left[s.segment] = max(0, s.Available())
		}
	}
	return r
}

// repeat is the verdict on a claim whose order id has an order already.
func repeat(c *sale.Claim, o *sale.Order) sale.Verdict {
	if o.SKU != c.SKU || o.User != c.User || o.Hash != c.Hash {
		return sale.Verdict{Outcome: sale.Conflict}
	}
	return sale.Verdict{Outcome: sale.Duplicate, Order: o}
}

// draw takes units from the wanted segment, else from the one that has the most, so
// that segments empty evenly. Where no segment has enough but all together have, it
// moves units into the fullest: they are total figures of the same SKU.
func draw(stock []segmentStock, wanted int, units int64) (segment int, ok bool) {
	best, sum := -1, int64(0)
	for i := range stock {
		free := stock[i].Available()
		if stock[i].segment == wanted && free >= units {
			best = i
			break
		}
		sum += max(0, free)
		if best < 0 || free > stock[best].Available() {
			best = i
		}
	}
	if best < 0 {
		return 0, false
	}
	to := &stock[best]
	if missing := units - to.Available(); missing > 0 {
		if sum < units {
			return 0, false
		}
		gather(stock, best, missing)
	}
	to.Sold += units
	to.changed = true
	return to.segment, true
}

// gather moves missing units of total into stock[to] from the other segments.
func gather(stock []segmentStock, to int, missing int64) {
	for i := range stock {
		if i == to || missing == 0 {
			continue
		}
		n := min(missing, max(0, stock[i].Available()))
		if n == 0 {
			continue
		}
		stock[i].Total -= n
		stock[i].changed = true
		stock[to].Total += n
		missing -= n
	}
}
