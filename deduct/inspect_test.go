package deduct

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"flashgate/sale"
)

func TestInspect(t *testing.T) {
	for segments := 1; segments <= 3; segments++ {
		t.Run(fmt.Sprintf("segments=%d", segments), func(t *testing.T) {
			ctx := context.Background()
			sc := newScene(t, 0, make([]int64, segments)...)
			for i := range segments {
				sc.l.stock[i] = sale.Stock{Total: 10}
			}
			sc.s.Distrust("", sc.l.Now()+1000)
			if names, err := sc.s.Loaded(ctx); err != nil || !slices.Equal(names, []string{"shoe"}) {
				t.Errorf("%v, %v", names, err)
			}
			sc.l.now += 2000
			rebuild(t, sc.s, &sc.sku)
			first := []*sale.Claim{claim("a", "1", 2), claim("b", "1", 3)}
			d := deduct(t, sc.s, &sc.sku, first)
			sc.age(3 * time.Second)
			second := []*sale.Claim{claim("c", "1", 4), claim("a", "1", 2)}
			wantAnswers(t, deduct(t, sc.s, &sc.sku, second), "12")
			look := func() (left int64, ages map[sale.OrderID]time.Duration) {
				t.Helper()
				copies, err := sc.s.Copies(ctx, "shoe")
				if err != nil || len(copies) != segments {
					t.Fatalf("%+v, %v", copies, err)
				}
				ages = make(map[sale.OrderID]time.Duration)
				for i, c := range copies {
					if c.SKU != "shoe" || c.Segment != i || c.Generation == "" {
						t.Errorf("%+v", c)
					}
					left += c.Left
					for _, x := range c.Tentative {
						ages[x.ID] = x.Age
						left += x.Quantity
					}
				}
				return left, ages
			}
			left, ages := look()
			if left != int64(10*segments) || len(ages) != 3 || ages[first[0].ID] != 3*time.Second || ages[second[0].ID] != 0 {
				t.Errorf("%d units, ages %v", left, ages)
			}
			if err := sc.s.Settle(ctx, &sc.sku, decide(sc.l, d, first)); err != nil {
				t.Fatal(err)
			}
			if left, ages := look(); left != int64(10*segments)-5 || len(ages) != 1 {
				t.Errorf("%d units, ages %v", left, ages)
			}
			// A copy that is not whole is none.
			tag := familyTag("shoe", segments-1)
			pointer, err := sc.m.Get(pointerKey(tag))
			if err != nil {
				t.Fatal(err)
			}
			sc.m.HDel(hashKey(tag, pointer), "m")
			if copies, err := sc.s.Copies(ctx, "shoe"); err != nil || copies != nil {
				t.Errorf("%+v, %v", copies, err)
			}
			sc.m.FlushAll()
			if copies, err := sc.s.Copies(ctx, "shoe"); err != nil || copies != nil {
				t.Errorf("%+v, %v", copies, err)
			}
			if names, err := sc.s.Loaded(ctx); err != nil || len(names) != 0 {
				t.Errorf("%v, %v", names, err)
			}
		})
	}
}

func TestInspectMeetsADamagedRecord(t *testing.T) {
	sc := newScene(t, 0, 10)
	tag := familyTag("shoe", 0)
	pointer, err := sc.m.Get(pointerKey(tag))
	if err != nil {
		t.Fatal(err)
	}
	sc.m.HSet(batchesKey(tag, pointer), "12345678", "no record")
	if _, err := sc.s.Copies(context.Background(), "shoe"); err == nil {
		t.Error("no error")
	}
}
