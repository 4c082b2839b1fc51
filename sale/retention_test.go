package sale

import (
	"errors"
	"testing"
	"time"
)

func TestRetentionDue(t *testing.T) {
	const day = 24 * 3600 * 1000
	now := int64(100 * day)
	keep := Retention{Orders: 10 * 24 * time.Hour, Archived: 20 * 24 * time.Hour}
	at := func(days int64) int64 { return days * day }
	for name, c := range map[string]struct {
		keep Retention
		sku  SKU
		want Archive
	}{
		"closed for long":          {keep, SKU{State: StateClosed, ChangedAt: at(90)}, ArchiveUnderWay},
		"closed too lately":        {keep, SKU{State: StateClosed, ChangedAt: at(90) + 1}, 0},
		"open":                     {keep, SKU{State: StateOpen, ChangedAt: at(1)}, 0},
		"paused":                   {keep, SKU{State: StatePaused, ChangedAt: at(1)}, 0},
		"its time is over":         {keep, SKU{State: StateOpen, ChangedAt: at(1), ClosesAt: at(90)}, ArchiveUnderWay},
		"its time is just over":    {keep, SKU{State: StateOpen, ChangedAt: at(1), ClosesAt: at(90) + 1}, 0},
		"over, but changed lately": {keep, SKU{State: StateOpen, ChangedAt: at(95), ClosesAt: at(80)}, 0},
		"buyers are counted":       {keep, SKU{State: StateClosed, ChangedAt: at(1), Counting: true}, 0},
		"begun":                    {keep, SKU{State: StateClosed, ChangedAt: at(99), Archive: ArchiveUnderWay}, ArchiveDone},
		"archived":                 {keep, SKU{State: StateClosed, ChangedAt: at(90), Archive: ArchiveDone}, 0},
		"archived for long":        {keep, SKU{State: StateClosed, ChangedAt: at(80), Archive: ArchiveDone}, ArchiveDropping},
		"being deleted":            {Retention{}, SKU{State: StateClosed, ChangedAt: at(99), Archive: ArchiveDropping}, ArchiveDropped},
		"deleted":                  {keep, SKU{State: StateClosed, ChangedAt: at(1), Archive: ArchiveDropped}, 0},
		"nothing is archived":      {Retention{}, SKU{State: StateClosed, ChangedAt: 1, Archive: ArchiveNone}, 0},
		"no longer archived":       {Retention{}, SKU{State: StateClosed, ChangedAt: 1, Archive: ArchiveUnderWay}, 0},
		"nothing is deleted":       {Retention{Orders: time.Hour}, SKU{State: StateClosed, ChangedAt: 1, Archive: ArchiveDone}, 0},
	} {
		if c.sku.Archive == 0 {
			c.sku.Archive = ArchiveNone
		}
		if got := c.keep.Due(&c.sku, now); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestArchivedSKUStaysClosed(t *testing.T) {
	base := goodSKU()
	base.State, base.Archive = StateClosed, ArchiveUnderWay
	for name, p := range map[string]SKUPatch{
		"opened":   {State: ptr(StateOpen)},
		"paused":   {State: ptr(StatePaused)},
		"limited":  {PerUserLimit: ptr(int64(3))},
		"dealt":    {Segments: ptr(4)},
		"replaced": {Title: ptr("Other"), State: ptr(StateOpen)},
	} {
		if _, _, err := p.Apply(base, Stock{Total: 5}); !errors.Is(err, ErrArchived) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p := SKUPatch{Title: ptr("Other"), State: ptr(StateClosed), Total: ptr(int64(9))}
	if sku, stock, err := p.Apply(base, Stock{Total: 5}); err != nil || sku.Title != "Other" || stock.Total != 9 {
		t.Errorf("%+v %+v %v", sku, stock, err)
	}
}

func TestErasedOrders(t *testing.T) {
	for _, c := range []struct {
		has, user string
		want      bool
	}{{"ann", "ann", true}, {"ann", "bob", false}, {ErasedPrefix + "x", "ann", true}} {
		if got := (&Order{User: c.has}).BoughtBy(c.user); got != c.want {
			t.Errorf("%s, %s: %v", c.has, c.user, got)
		}
	}
	o := Order{PayBy: 1000}
	if end := 1000 + RepeatsFor.Milliseconds(); !o.RepeatsMatter(end-1) || o.RepeatsMatter(end) {
		t.Error("repeats matter for RepeatsFor behind pay_by")
	}
}
