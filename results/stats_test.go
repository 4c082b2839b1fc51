package results

import (
	"strconv"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

func TestStatsPublishesRefusals(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	s, err := NewStats(StatsConfig{Now: func() int64 { return 1_700_000_000_123 }}, c)
	if err != nil {
		t.Fatal(err)
	}
	s.every = time.Hour
	sub, err := c.nc.SubscribeSync("flashgate.stats.*")
	if err != nil {
		t.Fatal(err)
	}
	s.Count("phone", sale.SoldOut, 40)
	s.Count("phone", sale.SoldOut, 2)
	s.Count("phone", sale.LimitReached, 3)
	s.Count("phone", sale.Reserved, 9)
	s.Count("book", sale.Duplicate, 9)
	stop := during(t, s.Run)
	stop() // what was counted last is published at the end
	msg, err := sub.NextMsg(testenv.Patience)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"sku":"phone","at":"2023-11-14T22:13:20.123Z","refused":{"limit_reached":3,"sold_out":42}}`
	if msg.Subject != "flashgate.stats.phone" || string(msg.Data) != want {
		t.Errorf("%s: %s, want %s", msg.Subject, msg.Data, want)
	}
	if n, _, _ := sub.Pending(); n != 0 {
		t.Errorf("%d more messages", n)
	}
}

func TestStatsAreBounded(t *testing.T) {
	c := connect(t, Config{URL: nowhere})
	s, err := NewStats(StatsConfig{Now: func() int64 { return 0 }}, c)
	if err != nil {
		t.Fatal(err)
	}
	s.maxSKUs = 10
	for i := range 100 {
		s.Count("sku"+strconv.Itoa(i), sale.SoldOut, 1)
	}
	if len(s.counts) != 10 {
		t.Errorf("%d SKUs are counted, want 10", len(s.counts))
	}
}
