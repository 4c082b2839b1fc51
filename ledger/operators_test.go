package ledger

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/go-sql-driver/mysql"
	"pgregory.net/rapid"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// wish is a SKU as an operator would ask for it.
func (b *bed) wish(name string, units int64, change ...func(*sale.SKU)) (sale.SKU, sale.Stock) {
	s := sale.SKU{
		Name: name, Title: "Schuh ü " + name, UnitPrice: 500, Currency: "EUR", PayWithin: 900_000,
		State: sale.StateOpen, Heat: sale.HeatAuto, Segments: 1,
	}
	for _, fn := range change {
		fn(&s)
	}
	return s, sale.Stock{Total: units}
}

// put makes or replaces a SKU and fails the test where that is refused.
func (b *bed) put(db *DB, sku sale.SKU, stock sale.Stock) (sale.SKU, sale.Stock, bool) {
	b.t.Helper()
	sku, stock, created, err := db.PutSKU(b.t.Context(), sku, stock, sale.Expect{})
	if err != nil {
		b.t.Fatal(err)
	}
	return sku, stock, created
}

// buy commits one claim of n units and returns its outcome.
func (b *bed) buy(db *DB, sku *sale.SKU, user, key string, n int64) sale.Outcome {
	b.t.Helper()
	r, err := db.Commit(b.t.Context(), direct(sku, claim(sku, user, key, n)))
	if err != nil {
		b.t.Fatal(err)
	}
	return r.Verdicts[0].Outcome
}

func to[T any](v T) *T { return &v }

func TestPutSKU(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		sku, stock := b.wish("shoe", 10)
		stock.Reserved = 2
		made, had, created := b.put(db, sku, stock)
		if !created || made.Version != 1 || made.Ordinal == 0 || made.ChangedAt == 0 || had != stock {
			t.Errorf("created %v: %+v, %+v", created, made, had)
		}
		again, had, created := b.put(db, sku, stock)
		if created || again != made || had != stock {
			t.Errorf("repeated: created %v: %+v, %+v", created, again, had)
		}
		if out := b.buy(db, &made, "ann", "1", 8); out != sale.Reserved {
			t.Fatal(out)
		}
		if out := b.buy(db, &made, "bob", "1", 1); out != sale.SoldOut {
			t.Errorf("withheld units were sold: %v", out)
		}
		sku.Title, sku.Segments, stock.Total, stock.Reserved = "Boot", 3, 15, 1
		changed, had, created := b.put(db, sku, stock)
		if created || changed.Title != "Boot" || changed.Version != 2 || changed.Ordinal != made.Ordinal || had != (sale.Stock{Total: 15, Reserved: 1, Sold: 8}) {
			t.Errorf("replaced: %+v, %+v", changed, had)
		}
		if n := b.number("SELECT COUNT(*) FROM stock WHERE sku = 'shoe' AND total - reserved - sold = 2 AND sku_version = 2 AND raises > 0"); n != 3 {
			t.Errorf("%d segments as they should be", n)
		}
		if n := b.number("SELECT SUM(delta) FROM stock_moves WHERE sku = 'shoe' AND reason = 'operator'"); n != 15 {
			t.Errorf("the log explains a total of %d", n)
		}
		stock.Total = 8
		var below *sale.StockBelowSoldError
		if _, _, _, err := db.PutSKU(t.Context(), sku, stock, sale.Expect{}); !errors.As(err, &below) || below.MaxReduction != 6 {
			t.Errorf("below what is sold: %v", err)
		}
		sku.Currency = "euro"
		if _, _, _, err := db.PutSKU(t.Context(), sku, stock, sale.Expect{}); !errors.Is(err, sale.ErrInvalid) {
			t.Errorf("not valid: %v", err)
		}
		sku.Name = "a b"
		if _, _, _, err := db.PutSKU(t.Context(), sku, stock, sale.Expect{}); !errors.Is(err, sale.ErrInvalid) {
			t.Errorf("not a name: %v", err)
		}
		if cached, err := db.SKU(t.Context(), "shoe"); err != nil || *cached != changed {
			t.Errorf("a refused change is remembered: %+v, %v", cached, err)
		}
		b.checkInvariants()
	})
}

func TestPutSKUByManyAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		dbs := []*DB{b.open(), b.open()}
		var mu sync.Mutex
		created := map[string]int{}
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				for n := range 5 {
					sku, stock := b.wish(fmt.Sprintf("s-%d", n), 10, func(s *sale.SKU) { s.Title = fmt.Sprint(i) })
					_, _, made, err := dbs[i%2].PutSKU(t.Context(), sku, stock, sale.Expect{})
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					if made {
						created[sku.Name]++
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if len(created) != 5 {
			t.Errorf("created %v", created)
		}
		for name, n := range created {
			if n != 1 {
				t.Errorf("%s was created %d times", name, n)
			}
		}
		if n := b.number("SELECT COUNT(*) FROM stock s JOIN skus k ON k.sku = s.sku WHERE s.sku_version = k.version AND s.total = 10"); n != 5 {
			t.Errorf("%d SKUs agree with their stock", n)
		}
		if n := b.number("SELECT COUNT(DISTINCT ordinal) FROM skus"); n != 5 {
			t.Errorf("%d ordinals", n)
		}
	})
}

func TestPatchSKU(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		if _, _, err := db.PatchSKU(t.Context(), "shoe", sale.SKUPatch{}); !errors.Is(err, sale.ErrUnknownSKU) {
			t.Errorf("of nothing: %v", err)
		}
		if _, _, err := db.PatchSKU(t.Context(), "a b", sale.SKUPatch{}); !errors.Is(err, sale.ErrUnknownSKU) {
			t.Errorf("of no name: %v", err)
		}
		wished, stock := b.wish("shoe", 10)
		made, _, _ := b.put(db, wished, stock)
		same, had, err := db.PatchSKU(t.Context(), "shoe", sale.SKUPatch{Title: &wished.Title, Total: to(int64(10))})
		if err != nil || same != made || had != stock {
			t.Errorf("nothing new: %+v, %+v, %v", same, had, err)
		}
		next, had, err := db.PatchSKU(t.Context(), "shoe", sale.SKUPatch{State: to(sale.StatePaused), Reserved: to(int64(4))})
		if err != nil || next.State != sale.StatePaused || next.Version != 2 || next.Title != made.Title || had.Reserved != 4 {
			t.Errorf("%+v, %+v, %v", next, had, err)
		}
		// A gateway that has not heard of the pause must not sell.
		r, err := db.Commit(t.Context(), admitted(&made, claim(&made, "ann", "1", 1)))
		if err != nil || r.Verdicts[0].Outcome != sale.Paused {
			t.Errorf("%+v, %v", r, err)
		}
		_, _, err = db.PatchSKU(t.Context(), "shoe", sale.SKUPatch{ClosesAt: to(int64(5)), OpensAt: to(int64(6))})
		if !errors.Is(err, sale.ErrInvalid) {
			t.Errorf("closed before it opens: %v", err)
		}
		raises := func() int64 { return b.number("SELECT SUM(raises) FROM stock WHERE sku = 'shoe'") }
		before := raises()
		if _, _, err := db.PatchSKU(t.Context(), "shoe", sale.SKUPatch{Reserved: to(int64(5))}); err != nil || raises() != before {
			t.Errorf("withholding units counts as a raise (%v)", err)
		}
		stocked, _, err := db.PatchSKU(t.Context(), "shoe", sale.SKUPatch{Reserved: to(int64(0))})
		if err != nil || raises() == before {
			t.Errorf("releasing units does not count as a raise (%v)", err)
		}
		if stocked.Version != 2 {
			t.Errorf("stock alone made version %d", stocked.Version)
		}
		b.checkInvariants()
	})
}

func TestAddStock(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		sku, stock := b.wish("shoe", 10, func(s *sale.SKU) { s.Segments = 2 })
		stock.Reserved = 3
		sku, _, _ = b.put(db, sku, stock)
		if out := b.buy(db, &sku, "ann", "1", 2); out != sale.Reserved {
			t.Fatal(out)
		}
		add := func(delta int64) (sale.Stock, error) {
			got, had, _, err := db.AddStock(t.Context(), "shoe", delta, "")
			if err == nil && got.ChangedAt < sku.ChangedAt {
				t.Errorf("changed at %d, before %d", got.ChangedAt, sku.ChangedAt)
			}
			if got.ChangedAt = sku.ChangedAt; err == nil && got != sku {
				t.Errorf("the SKU became %+v", got)
			}
			return had, err
		}
		if had, err := add(5); err != nil || had != (sale.Stock{Total: 15, Reserved: 3, Sold: 2}) {
			t.Errorf("%+v, %v", had, err)
		}
		var below *sale.StockBelowSoldError
		if _, err := add(-11); !errors.As(err, &below) || below.MaxReduction != 10 {
			t.Errorf("%v", err)
		}
		if _, err := add(-sale.MaxStock); !errors.As(err, &below) || below.MaxReduction != 10 {
			t.Errorf("%v", err)
		}
		if _, err := add(sale.MaxStock); !errors.Is(err, sale.ErrInvalid) {
			t.Errorf("%v", err)
		}
		if had, err := add(-10); err != nil || had.Available() != 0 {
			t.Errorf("%+v, %v", had, err)
		}
		if out := b.buy(db, &sku, "bob", "1", 1); out != sale.SoldOut {
			t.Error(out)
		}
		if had, err := add(1); err != nil || had.Available() != 1 {
			t.Errorf("%+v, %v", had, err)
		}
		if out := b.buy(db, &sku, "bob", "1", 1); out != sale.Reserved {
			t.Error(out)
		}
		if _, _, _, err := db.AddStock(t.Context(), "boot", 1, ""); !errors.Is(err, sale.ErrUnknownSKU) {
			t.Error(err)
		}
		if n := b.number("SELECT SUM(delta) FROM stock_moves WHERE reason = 'operator'"); n != 6 {
			t.Errorf("the log explains a total of %d", n)
		}
		b.checkInvariants()
	})
}

// TestOperatorsThroughBrokenConnections loses the answers to commits: what had been
// done is not done again, and is reported as done.
func TestOperatorsThroughBrokenConnections(t *testing.T) {
	b := mariaBed(t)
	server, err := mysql.ParseDSN(b.cfg.DSN)
	if err != nil {
		t.Fatal(err)
	}
	proxy := testenv.NewProxy(t, server.Addr)
	server.Addr = proxy.Addr
	db := b.open(func(c *Config) { c.DSN = server.FormatDSN() })
	lost := func(fn func()) {
		t.Helper()
		swallowed := proxy.SwallowReply("COMMIT")
		fn()
		disturbed(t, swallowed)
	}
	sku, stock := b.wish("shoe", 10)
	lost(func() {
		made, _, created := b.put(db, sku, stock)
		if !created || made.Version != 1 {
			t.Errorf("created %v, version %d", created, made.Version)
		}
	})
	lost(func() {
		if _, had, _, err := db.AddStock(t.Context(), "shoe", 5, ""); err != nil || had.Total != 15 {
			t.Errorf("%+v, %v", had, err)
		}
	})
	lost(func() {
		got, _, err := db.PatchSKU(t.Context(), "shoe", sale.SKUPatch{PerUserLimit: to(int64(2))})
		if err != nil || got.PerUserLimit != 2 || got.Version != 2 {
			t.Errorf("%+v, %v", got, err)
		}
	})
	lost(func() {
		// That it is not as expected any more is its own doing.
		p := sale.SKUPatch{Title: to("expected"), Expect: sale.Expect{Tags: []sale.SKUTag{{Version: 2, Rules: true}}}}
		if got, _, err := db.PatchSKU(t.Context(), "shoe", p); err != nil || got.Version != 3 {
			t.Errorf("%+v, %v", got, err)
		}
	})
	lost(func() {
		if _, had, replayed, err := db.AddStock(t.Context(), "shoe", 1, "key"); err != nil || replayed || had.Total != 16 {
			t.Errorf("%+v, %v, %v", had, replayed, err)
		}
	})
	if n := b.number("SELECT SUM(total) FROM stock"); n != 16 {
		t.Errorf("a total of %d", n)
	}
	if n := b.number("SELECT COUNT(*) FROM stock_moves"); n != 5 {
		t.Errorf("%d changes are in the log, want 5", n)
	}
	b.checkInvariants()
}

func TestListSKUs(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		if list, err := db.ListSKUs(t.Context(), "", 10); err != nil || len(list) != 0 {
			t.Errorf("%v, %v", list, err)
		}
		var want []sale.Listing
		for _, name := range []string{"B", "_", "a", "b", "b-1"} {
			sku, stock := b.wish(name, 7, func(s *sale.SKU) { s.Segments = 3 })
			stock.Reserved = 1
			sku, stock, _ = b.put(db, sku, stock)
			want = append(want, sale.Listing{SKU: sku, Stock: stock})
		}
		var got []sale.Listing
		for after := ""; ; after = got[len(got)-1].SKU.Name {
			page, err := db.ListSKUs(t.Context(), after, 2)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, page...)
			if len(page) < 2 {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("listed\n%+v\nwant\n%+v", got, want)
		}
	})
}

// TestOperatorsAgainstAModel compares random changes with a model that is one struct.
func TestOperatorsAgainstAModel(t *testing.T) {
	b := sqliteBed(t)
	db := b.open()
	n, claims := 0, 0
	rapid.Check(t, func(r *rapid.T) {
		n++
		sku, stock := b.wish(fmt.Sprintf("m-%d", n), rapid.Int64Range(0, 50).Draw(r, "total"))
		sku, stock, _ = b.put(db, sku, stock)
		for range rapid.IntRange(1, 6).Draw(r, "steps") {
			switch rapid.IntRange(0, 2).Draw(r, "what") {
			case 0:
				units := rapid.Int64Range(1, 10).Draw(r, "units")
				claims++
				out := b.buy(db, &sku, "ann", fmt.Sprint(claims), units)
				if want := units <= stock.Available(); want != (out == sale.Reserved) {
					r.Fatalf("buying %d of %+v: %v", units, stock, out)
				}
				if out == sale.Reserved {
					stock.Sold += units
				}
			case 1:
				delta := rapid.Int64Range(-30, 30).Draw(r, "delta")
				_, had, _, err := db.AddStock(t.Context(), sku.Name, delta, "")
				if want := stock.Available()+delta >= 0; want != (err == nil) {
					r.Fatalf("adding %d to %+v: %v", delta, stock, err)
				}
				if err == nil {
					stock.Total += delta
					if had != stock {
						r.Fatalf("%+v, the model has %+v", had, stock)
					}
				}
			case 2:
				p := sale.SKUPatch{Segments: to(rapid.IntRange(1, 5).Draw(r, "segments")), Reserved: to(rapid.Int64Range(0, 20).Draw(r, "reserved"))}
				wantSKU, wantStock, wantErr := p.Apply(sku, stock)
				got, had, err := db.PatchSKU(t.Context(), sku.Name, p)
				if (wantErr == nil) != (err == nil) {
					r.Fatalf("%v, the model says %v", err, wantErr)
				}
				if err == nil {
					if got.Segments != wantSKU.Segments || had != wantStock {
						r.Fatalf("%+v %+v, the model has %+v %+v", got, had, wantSKU, wantStock)
					}
					sku, stock = got, had
				}
			}
		}
	})
	b.checkInvariants()
}
