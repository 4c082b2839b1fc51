package app

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"flashgate/configs"
	"flashgate/deduct"
	"flashgate/internal/testenv"
	"flashgate/ledger"
	"flashgate/results"
	"flashgate/sale"
)

// running is an app over parts that need no servers.
type running struct {
	*app
	t      *testing.T
	client http.Client
}

func startApp(t *testing.T, change func(*configs.Config)) *running {
	t.Helper()
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	cfg := configs.Default(configs.Dev)
	cfg.Server.Listen, cfg.Admin.Listen, cfg.Admin.Key = "127.0.0.1:0", "127.0.0.1:0", "a-key-of-sixteen-or-more"
	cfg.Ledger.Driver, cfg.Ledger.DSN = "sqlite", filepath.Join(dir, "ledger.db")
	// A call that a busy machine lets run out of time would go another way.
	cfg.Redis.DialTimeout, cfg.Redis.ReadTimeout = testenv.Patience, testenv.Patience
	change(&cfg)
	if err := ledger.Migrate(t.Context(), ledgerConfig(cfg, log, nil)); err != nil {
		t.Fatal(err)
	}
	redis, err := deduct.StartEmbedded()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Redis.Addrs = []string{redis.Addr()}
	nats, err := results.NewEmbedded(results.EmbeddedConfig{Dir: filepath.Join(dir, "nats"), SyncInterval: time.Second, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	a, err := newApp(cfg, log, nats)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { // joined below
		ended <- runStages(ctx, log, testenv.Patience, append(a.stages(), stage{"embedded redis", redis.Run}, stage{"embedded nats", nats.Run}))
	}()
	r := &running{app: a, t: t, client: http.Client{Transport: &http.Transport{}, Timeout: testenv.Patience}}
	t.Cleanup(func() {
		r.client.CloseIdleConnections()
		stop()
		if err := <-ended; err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
	testenv.Eventually(t, func() bool { return a.ledger.Ready() && a.gateway.BuyersAddr() != nil }, "the app is ready")
	return r
}

// ask makes a buyer's request and returns the status and the order, or the problem.
func (r *running) ask(method, path, user, body string, header ...string) (status int, answer map[string]any) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, "http://"+r.gateway.BuyersAddr().String()+path, bytes.NewBufferString(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if user != "" {
		req.Header.Set("X-User-ID", user)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		answer = map[string]any{"text": string(text)}
	}
	return resp.StatusCode, answer
}

// What a buyer gives back is there for the next at once, through shield and memory,
// and what that one pays for is paid, once.
func TestLifeOfAnOrder(t *testing.T) {
	const secret = "webhook"
	r := startApp(t, func(c *configs.Config) { c.Payments.WebhookSecrets = []string{"another", secret} })
	_, _, _, err := r.ledger.PutSKU(t.Context(), sale.SKU{
		Name: "last", UnitPrice: 4999, Currency: "EUR", PayWithin: 900_000,
		State: sale.StateOpen, Heat: sale.HeatHot, Segments: 1,
	}, sale.Stock{Total: 1}, sale.Expect{})
	if err != nil {
		t.Fatal(err)
	}
	sku, err := r.ledger.SKU(t.Context(), "last")
	if err != nil {
		t.Fatal(err)
	}
	left := func() int64 {
		n, loaded, err := r.shield.Left(t.Context(), sku)
		if err != nil || !loaded {
			return -1
		}
		return n
	}
	testenv.Eventually(t, func() bool { return left() == 1 }, "the shield is loaded")
	buy := func(user string) (int, map[string]any) { return r.ask("POST", "/v1/skus/last/orders", user, "") }
	status, first := buy("ann")
	if status != 201 {
		t.Fatal(first)
	}
	// The second of these is refused from memory.
	for range 2 {
		if status, refused := buy("bob"); status != 409 || refused["code"] != "sold_out" {
			t.Fatal(status, refused)
		}
	}
	// Once in a while memory lets somebody look again.
	testenv.Eventually(t, func() bool { return r.checkout.SoldOut("last") }, "it is known to be sold out")
	if n := left(); n != 0 {
		t.Errorf("it is not sold out: the shield has %d units left", n)
	}
	path := fmt.Sprint("/v1/orders/", first["order_id"])
	if status, other := r.ask("DELETE", path, "bob", ""); status != 404 {
		t.Error(status, other)
	}
	for range 2 {
		if status, cancelled := r.ask("DELETE", path, "ann", ""); status != 200 || cancelled["status"] != "cancelled" {
			t.Fatal(status, cancelled)
		}
		if n := left(); n != 1 {
			t.Errorf("the shield has %d units left", n)
		}
	}
	status, second := buy("bob")
	if status != 201 {
		t.Fatal(status, second)
	}
	event := fmt.Sprintf(`{"event_id":"e","order_id":%q,"amount":4999,"currency":"EUR","status":"succeeded"}`, second["order_id"])
	stamp := fmt.Sprint(time.Now().Unix())
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = io.WriteString(mac, stamp+"."+event)
	for range 2 {
		status, paid := r.ask("POST", "/v1/payments", "", event, "Flashgate-Signature", fmt.Sprintf("t=%s,v1=%x", stamp, mac.Sum(nil)))
		if status != 200 || paid["outcome"] != "paid" {
			t.Error(status, paid)
		}
	}
	path = fmt.Sprint("/v1/orders/", second["order_id"])
	if status, paid := r.ask("DELETE", path, "bob", ""); status != 409 || paid["code"] != "already_paid" {
		t.Error(status, paid)
	}
	last := fmt.Sprint(second["order_id"], "/paid")
	if status, events := r.ask("GET", path+"/events", "bob", "", "Last-Event-ID", last); status != 204 {
		t.Error(status, events)
	}
}
