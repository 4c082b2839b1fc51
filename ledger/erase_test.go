package ledger

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"flashgate/sale"
)

// A user is erased wherever the ledger names them; what has to stay is said, and goes the
// next time; sums are kept and others untouched.
func TestErase(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		free, limited, waiting, old := b.sku("free", 10, 0), b.sku("limited", 10, 3), b.sku("waiting", 10, 0), b.sku("old", 10, 2)
		for _, sku := range []*sale.SKU{free, limited, waiting, old} {
			for _, user := range []string{"ann", "bob"} {
				o := b.reserve(db, sku, user, "1", 1)
				if sku != waiting {
					b.pay(db, paymentOf(&o, user+"-"+sku.Name), sale.PaymentApplied)
				}
			}
		}
		b.close(db, "old")
		b.retain(db, keepArchive)
		closed := false
		erase := func(wantErased int, wantLeft ...string) {
			t.Helper()
			var left []string
			n, err := db.Erase(t.Context(), Erasure{User: "ann", Closed: closed}, func(sku, why string) { left = append(left, sku+": "+why) })
			if err != nil || n != wantErased || len(left) != len(wantLeft) {
				t.Fatalf("%d erased, left %v, %v", n, left, err)
			}
			for _, sku := range wantLeft {
				if !strings.Contains(fmt.Sprint(left), sku+": ") {
					t.Errorf("left %v, want %s", left, sku)
				}
			}
			b.clean(db)
		}
		erase(2, "limited", "waiting")
		erase(0, "limited", "waiting")
		b.close(db, "limited")
		b.overdue(db)
		b.expireAll(db)
		erase(1, "limited")
		closed = true
		erase(1)
		erase(0)
		named := b.number(`SELECT (SELECT COUNT(*) FROM orders WHERE user_id = 'ann') + (SELECT COUNT(*) FROM orders_archive WHERE user_id = 'ann')
			+ (SELECT COUNT(*) FROM buyers WHERE user_id = 'ann')`)
		others := b.number("SELECT (SELECT COUNT(*) FROM orders WHERE user_id = 'bob') + (SELECT COUNT(*) FROM orders_archive WHERE user_id = 'bob')")
		if named != 0 || others != 4 {
			t.Errorf("%d rows name the user, %d another", named, others)
		}
		if n := b.number("SELECT SUM(units) FROM buyers WHERE user_id LIKE 'erased:%'"); n != 1 {
			t.Errorf("the pseudonym holds %d units", n)
		}
		// What was published of the user is still theirs, to whoever restores.
		for _, o := range b.all(db) {
			if strings.HasPrefix(o.User, sale.ErasedPrefix) {
				o.User = "ann"
				if got := b.restored(db, o); got[0] != "exists" {
					t.Errorf("%s is %s", o.SKU, got)
				}
			}
		}
		if _, err := db.Erase(t.Context(), Erasure{}, nil); !errors.Is(err, sale.ErrInvalid) {
			t.Errorf("%v", err)
		}
	})
}
