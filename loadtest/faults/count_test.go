package faults

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flashgate/internal/testenv"
)

// checkYes holds every "reserved" that a buyer heard against the ledger, and G1 and the
// inventory log in the ledger itself. Each yes must be there exactly once; the primary
// key makes "twice" impossible, so it is distinct ids that are compared.
func (c *cluster) checkYes(sku string, answers []answer) (live map[string]bool) {
	c.t.Helper()
	live = c.orderIDs(sku)
	heard := make(map[string]string)
	missing := 0
	for _, a := range answers {
		if !a.yes() {
			continue
		}
		if by, twice := heard[a.orderID]; twice && by != a.buyer+"/"+a.key {
			c.t.Errorf("order %s was given to %s and to %s", a.orderID, by, a.buyer+"/"+a.key)
		}
		heard[a.orderID] = a.buyer + "/" + a.key
		if !live[a.orderID] {
			missing++
		}
	}
	if missing > 0 {
		c.t.Errorf("%d answered orders are not in the ledger", missing)
	}
	c.checkStock(sku)
	return live
}

// checkStock holds the stock rows against orders, log and buyers.
func (c *cluster) checkStock(sku string) {
	c.t.Helper()
	sold := c.query("SELECT SUM(sold) FROM stock WHERE sku = ?", sku)
	sellable := c.query("SELECT SUM(total - reserved) FROM stock WHERE sku = ?", sku)
	units := c.query("SELECT COALESCE(SUM(quantity),0) FROM orders WHERE sku = ? AND status IN ('reserved','paid')", sku)
	logged := c.query("SELECT -COALESCE(SUM(delta),0) FROM inventory_log WHERE sku = ? AND order_id IN (SELECT order_id FROM orders WHERE sku = ?)", sku, sku)
	if sold > sellable {
		c.t.Errorf("%s: sold %d of %d", sku, sold, sellable)
	}
	if sold != units || sold != logged {
		c.t.Errorf("%s: stock says %d sold, orders %d, log %d", sku, sold, units, logged)
	}
}

// checkSoldOut checks that the sale ended with exactly total units sold.
func (c *cluster) checkSoldOut(sku string, total int64) {
	c.t.Helper()
	if sold := c.query("SELECT SUM(sold) FROM stock WHERE sku = ?", sku); sold != total {
		c.t.Errorf("%s: %d of %d sold", sku, sold, total)
	}
	rows := c.query("SELECT COUNT(*) FROM orders WHERE sku = ?", sku)
	logged := c.query("SELECT COUNT(*) FROM inventory_log WHERE sku = ? AND order_id IN (SELECT order_id FROM orders WHERE sku = ?)", sku, sku)
	if rows != total || logged != total {
		c.t.Errorf("%s: %d order rows and %d log rows for %d units", sku, rows, logged, total)
	}
}

// results reads the whole results stream and returns how often each reserved event of
// the SKU was seen.
func (c *cluster) results(sku string) map[string]int {
	c.t.Helper()
	nc, err := nats.Connect(c.nats.URL, nats.Timeout(testenv.Patience))
	if err != nil {
		c.t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), testenv.Patience)
	defer cancel()
	cons, err := js.CreateConsumer(ctx, "FLASHGATE", jetstream.ConsumerConfig{
		FilterSubject: "flashgate.results." + sku + ".reserved", AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverAllPolicy,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	seen := make(map[string]int)
	for {
		info, err := cons.Info(ctx)
		if err != nil {
			c.t.Fatal(err)
		}
		if info.NumPending == 0 {
			return seen
		}
		batch, err := cons.FetchNoWait(500)
		if err != nil && !errors.Is(err, jetstream.ErrNoMessages) {
			c.t.Fatal(err)
		}
		for msg := range batch.Messages() {
			if ct := msg.Headers().Get("Content-Type"); ct != "application/cloudevents-batch+json" {
				c.t.Errorf("Content-Type %q", ct)
			}
			if msg.Headers().Get("Nats-Msg-Id") == "" {
				c.t.Error("no Nats-Msg-Id")
			}
			var events []struct {
				ID          string `json:"id"`
				SpecVersion string `json:"specversion"`
				Type        string `json:"type"`
				Data        struct {
					OrderID string `json:"order_id"`
					SKU     string `json:"sku"`
				} `json:"data"`
			}
			if err := json.Unmarshal(msg.Data(), &events); err != nil {
				c.t.Fatalf("%s: %v", msg.Data(), err)
			}
			for _, e := range events {
				if e.SpecVersion != "1.0" || e.Type != "flashgate.order.reserved" || e.ID != e.Data.OrderID+"/reserved" || e.Data.SKU != sku {
					c.t.Errorf("event %+v on the subject of %s", e, sku)
				}
				seen[e.Data.OrderID]++
			}
		}
	}
}

// checkPublished waits until exactly the given orders are on the results stream.
func (c *cluster) checkPublished(sku string, orders map[string]bool) {
	c.t.Helper()
	var seen map[string]int
	testenv.Eventually(c.t, func() bool {
		seen = c.results(sku)
		return len(seen) >= len(orders)
	}, "%d results on NATS", len(orders))
	for id := range seen {
		if !orders[id] {
			c.t.Errorf("result of an order %s that the ledger does not have", id)
		}
	}
	for id := range orders {
		if seen[id] == 0 {
			c.t.Errorf("order %s was not published", id)
		}
	}
}
