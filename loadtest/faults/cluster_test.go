package faults

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"
	"go.uber.org/goleak"

	"flashgate/internal/testenv"
)

const adminKey = "operators-only-0123456789abcdef"

func TestMain(m *testing.M) {
	testenv.Main(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

// cluster is one installation: the three servers and some gateways on them.
type cluster struct {
	t     testing.TB
	redis *testenv.RedisServer
	maria *testenv.MariaDBServer
	nats  *testenv.NATSServer
	gates []*gate
	db    *sql.DB
	http  *http.Client
	env   []string
}

// gate is one gateway process.
type gate struct {
	*testenv.Process
	url, admin string
}

// parts are servers that a test brings along; nil ones are started.
type parts struct {
	redis     *testenv.RedisServer
	redisAddr string // where gateways reach Redis, when not directly
	maria     *testenv.MariaDBServer
	dsn       string // how gateways reach the ledger, when not directly
	env       []string
}

// newCluster starts what is missing, migrates the ledger and starts n gateways.
func newCluster(t testing.TB, n int, p parts) *cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
	c := &cluster{t: t, redis: p.redis, maria: p.maria}
	if c.redis == nil {
		c.redis = testenv.Redis(t)
	}
	if c.maria == nil {
		c.maria = testenv.MariaDB(t)
	}
	c.nats = testenv.NATS(t)
	addr, dsn := c.redis.Addr, c.maria.DSN
	if p.redisAddr != "" {
		addr = p.redisAddr
	}
	if p.dsn != "" {
		dsn = p.dsn
	}
	c.env = append([]string{
		"FLASHGATE_REDIS__ADDRS=" + addr,
		"FLASHGATE_LEDGER__DSN=" + dsn,
		"FLASHGATE_NATS__URL=" + c.nats.URL,
		"FLASHGATE_ADMIN__KEY=" + adminKey,
		"FLASHGATE_AUTH__MODE=header",
		"FLASHGATE_SERVER__TRUSTED_PROXIES=127.0.0.0/8",
		"FLASHGATE_SERVER__DRAIN_DELAY=0s",
		"FLASHGATE_LIMITS__USER__RATE=0",
		// Buyers on this machine may be slow without meaning harm.
		"FLASHGATE_SERVER__READ_TIMEOUT=1m",
		"FLASHGATE_LOG__LEVEL=info",
	}, p.env...)
	var err error
	if c.db, err = sql.Open("mysql", c.maria.DSN); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.db.Close() })
	transport := &http.Transport{MaxIdleConnsPerHost: 2000, MaxIdleConns: 8000, IdleConnTimeout: 30 * time.Second}
	c.http = &http.Client{Transport: transport, Timeout: testenv.Patience}
	t.Cleanup(transport.CloseIdleConnections)

	migrate := exec.Command(testenv.Binary(t), "migrate")
	migrate.Env = append(os.Environ(), c.env...)
	if out, err := migrate.CombinedOutput(); err != nil {
		t.Fatalf("migrate: %v\n%s", err, out)
	}
	for i := range n {
		c.startGate(i)
	}
	for _, g := range c.gates {
		c.awaitReady(g)
	}
	return c
}

// startGate starts a gateway, whose environment has extra besides.
func (c *cluster) startGate(i int, extra ...string) *gate {
	c.t.Helper()
	return c.startGateIn(i, "", extra...)
}

// startGateIn starts it by a shell's script, which ends with exec "$0" "$@"; "" is none.
func (c *cluster) startGateIn(i int, script string, extra ...string) *gate {
	c.t.Helper()
	port, admin := testenv.Port(c.t), testenv.Port(c.t)
	g := &gate{url: fmt.Sprintf("http://127.0.0.1:%d", port), admin: fmt.Sprintf("http://127.0.0.1:%d", admin)}
	path, args := testenv.Binary(c.t), []string{"serve"}
	if script != "" {
		path, args = "/bin/sh", append([]string{"-c", script, path}, args...)
	}
	g.Process = testenv.StartProcess(c.t, fmt.Sprintf("gateway-%d", i), testenv.Spec{
		Path: path, Args: args,
		Env: append(append(append([]string{}, c.env...), extra...),
			fmt.Sprintf("FLASHGATE_SERVER__LISTEN=127.0.0.1:%d", port),
			fmt.Sprintf("FLASHGATE_ADMIN__LISTEN=127.0.0.1:%d", admin)),
	})
	c.gates = append(c.gates, g)
	return g
}

func (c *cluster) awaitReady(g *gate) {
	c.t.Helper()
	testenv.Eventually(c.t, func() bool { return c.ready(g) }, "%s is ready", g.Name)
}

func (c *cluster) ready(g *gate) bool {
	res, err := c.http.Get(g.url + "/readyz")
	if err != nil {
		return false
	}
	defer drain(res)
	return res.StatusCode == http.StatusOK
}

func drain(res *http.Response) {
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
}

// operate calls the operators' API of the first gateway that runs. Calls are repeated
// while it is too busy to answer: all that tests make may be.
func (c *cluster) operate(method, path string, body any) (code int, doc map[string]any) {
	c.t.Helper()
	var in []byte
	if body != nil {
		in, _ = json.Marshal(body)
	}
	gates := c.running()
	if len(gates) == 0 {
		c.t.Fatal("no gateway runs")
	}
	code, doc = c.call(func() *http.Request {
		req, _ := http.NewRequest(method, gates[0].admin+path, bytes.NewReader(in))
		req.Header.Set("Authorization", "Bearer "+adminKey)
		req.Header.Set("Content-Type", "application/json")
		return req
	})
	if code >= 300 {
		c.t.Logf("%s %s: %d %v", method, path, code, doc)
	}
	return code, doc
}

// call makes a request that may be repeated, until the answer is not that the server is
// too busy.
func (c *cluster) call(request func() *http.Request) (code int, doc map[string]any) {
	c.t.Helper()
	var err error
	testenv.Patiently(func() bool {
		var res *http.Response
		if res, err = c.http.Do(request()); err != nil {
			return false
		}
		defer drain(res)
		code, doc = res.StatusCode, nil
		_ = json.NewDecoder(res.Body).Decode(&doc)
		return code != http.StatusServiceUnavailable && code != http.StatusTooManyRequests
	})
	if err != nil {
		c.t.Error(err)
	}
	return code, doc
}

// putSKU puts a SKU on sale and waits until every gateway sells it.
func (c *cluster) putSKU(sku string, fields map[string]any) {
	c.t.Helper()
	body := map[string]any{"unit_price": 4999, "currency": "EUR", "title": "A thing"}
	for k, v := range fields {
		body[k] = v
	}
	if code, _ := c.operate("PUT", "/v1/skus/"+sku, body); code != 201 && code != 200 {
		c.t.Fatalf("PUT %s: %d", sku, code)
	}
	for _, g := range c.gates {
		testenv.Eventually(c.t, func() bool {
			res, err := c.http.Get(g.url + "/v1/skus/" + sku)
			if err != nil {
				return false
			}
			defer drain(res)
			return res.StatusCode == 200
		}, "%s knows %s", g.Name, sku)
	}
}

// query reads one integer from the ledger.
func (c *cluster) query(q string, args ...any) int64 {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testenv.Patience)
	defer cancel()
	var n sql.NullInt64
	if err := c.db.QueryRowContext(ctx, q, args...).Scan(&n); err != nil {
		c.t.Fatalf("%s: %v", q, err)
	}
	return n.Int64
}

// orderIDs are the ids of a SKU's live orders, in their outside form.
func (c *cluster) orderIDs(sku string) map[string]bool {
	c.t.Helper()
	rows, err := c.db.Query("SELECT order_id FROM orders WHERE sku = ? AND status IN ('reserved','paid')", sku)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	ids := make(map[string]bool)
	for rows.Next() {
		var id []byte
		if err := rows.Scan(&id); err != nil {
			c.t.Fatal(err)
		}
		ids[base32Lower(id)] = true
	}
	if err := rows.Err(); err != nil {
		c.t.Fatal(err)
	}
	return ids
}

func (c *cluster) running() []*gate {
	var out []*gate
	for _, g := range c.gates {
		if g.Running() {
			out = append(out, g)
		}
	}
	return out
}

// metric sums a counter over the gateways that run.
func (c *cluster) metric(name string) float64 {
	c.t.Helper()
	var sum float64
	for _, g := range c.running() {
		sum += c.metricOf(g, name)
	}
	return sum
}

// metricOf sums a counter of one gateway over its labels.
func (c *cluster) metricOf(g *gate, name string) (sum float64) {
	c.t.Helper()
	req, _ := http.NewRequest("GET", g.admin+"/metrics", nil)
	req.Header.Set("Authorization", "Bearer "+adminKey)
	res, err := c.http.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	text, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok && rest != "" && (rest[0] == ' ' || rest[0] == '{') {
			var v float64
			if _, err := fmt.Sscan(rest[strings.LastIndexByte(strings.TrimSpace(rest), ' ')+1:], &v); err == nil {
				sum += v
			}
		}
	}
	return sum
}
