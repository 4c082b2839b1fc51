package deduct

import (
	"testing"

	"flashgate/sale"
)

func TestDistrust(t *testing.T) {
	m := startMini(t)
	sku := testSKU(0, 1)
	l := newFakeLedger(sku, 10)
	a, b := newShield(t, m.Addr(), l), newShield(t, m.Addr(), l)
	for _, name := range []string{"shoe", ""} {
		rebuild(t, a, &sku)
		rebuild(t, b, &sku)
		wantAnswers(t, deduct(t, a, &sku, nil), "")
		a.Distrust(name, l.Now())
		wantAnswers(t, deduct(t, a, &sku, claims(1, 0)), "-")
		wantAnswers(t, deduct(t, b, &sku, nil), "")
		b.Distrust(name, l.Now())
		rebuild(t, b, &sku)
		wantAnswers(t, deduct(t, a, &sku, nil), "") // adopts what B loaded since
	}
	a.Distrust("sock", l.Now())
	wantAnswers(t, deduct(t, a, &sku, nil), "")
}

func TestRedisGoingBackInTimeIsNotTrusted(t *testing.T) {
	m := startMini(t)
	sku := testSKU(0, 1)
	l := newFakeLedger(sku, 10)
	s := newShield(t, m.Addr(), l)
	rebuild(t, s, &sku)
	tag := familyTag("shoe", 0)
	old, _ := m.Get(pointerKey(tag))
	s.Distrust("shoe", l.Now())
	rebuild(t, s, &sku)
	// A replica that had not heard of the second generation is promoted.
	m.FlushAll()
	m.Set(pointerKey(tag), old)
	m.HSet(hashKey(tag, old), "m", "1", "l", "10")
	wantAnswers(t, deduct(t, s, &sku, claims(1, 0)), "-")
	rebuild(t, s, &sku)
	wantAnswers(t, deduct(t, s, &sku, claims(1, 0)), "1")
	if x := leftovers(m); x != nil {
		t.Errorf("left behind: %q", x)
	}
}

func TestRulesOfTheSKUChange(t *testing.T) {
	m := startMini(t)
	v1 := testSKU(2, 1)
	l := newFakeLedger(v1, 10)
	a, b := newShield(t, m.Addr(), l), newShield(t, m.Addr(), l)
	rebuild(t, a, &v1)
	wantAnswers(t, deduct(t, b, &v1, claims(1, 0)), "1")

	price := v1
	price.Version, price.UnitPrice = 2, 5
	wantAnswers(t, deduct(t, a, &price, claims(1, 1)), "1") // nothing the shield depends on

	limit := v1
	limit.Version, limit.PerUserLimit = 3, 1
	l.sku = limit
	wantAnswers(t, deduct(t, a, &limit, claims(1, 2)), "-")
	rebuild(t, a, &limit)
	// A gateway that has not heard of the change goes by the generation, not by its SKU.
	two := []*sale.Claim{claim("late", "1", 1), claim("late", "2", 1)}
	wantAnswers(t, deduct(t, b, &v1, two), "13")
	rebuild(t, b, &v1)
	wantAnswers(t, deduct(t, a, &limit, two[:1]), "2")
}
