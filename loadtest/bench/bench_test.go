//go:build bench

package bench

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flashgate/internal/testenv"
)

var (
	rounds      = flag.Int("rounds", 5, "interleaved rounds")
	seconds     = flag.Int("seconds", 4, "seconds per measurement")
	connections = flag.Int("connections", 512, "connections of the load generator")
	delay       = flag.Duration("delay", 0, "how long each reply of Redis, the ledger and NATS is held, as a network does")
	profile     = flag.String("profile", "", "write the gateway's CPU profile of one reserving run to this file")
)

const key = "bench-bench-bench-bench"

func TestMain(m *testing.M) { testenv.Main(m) }

// rig is the installation under test and the bare server beside it.
type rig struct {
	t       *testing.T
	redis   *testenv.RedisServer
	maria   *testenv.MariaDBServer
	nats    *testenv.NATSServer
	db      *sql.DB
	bin     string
	env     []string // of every gateway
	gateway *testenv.Process
	url     string
	admin   string
	bare    *testenv.Process
	bareURL string
}

// newRig starts an installation.
func newRig(t *testing.T) *rig { return newRigOn(t, testenv.OwnMariaDB(t), testenv.NATS(t)) }

// newRigOn starts an installation on servers that the caller has set up.
func newRigOn(t *testing.T, maria *testenv.MariaDBServer, nats *testenv.NATSServer) *rig {
	r := &rig{t: t, maria: maria, nats: nats, redis: testenv.Redis(t)}
	bin := filepath.Join(t.TempDir(), "flashgate")
	bare := filepath.Join(t.TempDir(), "bare")
	for path, pkg := range map[string]string{bin: "flashgate", bare: "flashgate/loadtest/bare"} {
		if out, err := exec.Command("go", "build", "-o", path, pkg).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	barePort := testenv.Port(t)
	link := func(addr string) string {
		if *delay == 0 {
			return addr
		}
		p := testenv.NewProxy(t, addr)
		p.Delay(*delay)
		return p.Addr
	}
	r.bin, r.env = bin, []string{
		"FLASHGATE_REDIS__ADDRS=" + link(r.redis.Addr), "FLASHGATE_LEDGER__DSN=" + strings.Replace(r.maria.DSN, r.maria.Addr, link(r.maria.Addr), 1),
		"FLASHGATE_NATS__URL=nats://" + link(strings.TrimPrefix(r.nats.URL, "nats://")),
		"FLASHGATE_ADMIN__KEY=" + key, "FLASHGATE_AUTH__MODE=header", "FLASHGATE_SERVER__TRUSTED_PROXIES=127.0.0.0/8",
		"FLASHGATE_LIMITS__USER__RATE=0", "FLASHGATE_LOG__LEVEL=warn",
	}
	migrate := exec.Command(bin, "migrate")
	migrate.Env = append(os.Environ(), r.env...)
	if out, err := migrate.CombinedOutput(); err != nil {
		t.Fatalf("migrate: %v\n%s", err, out)
	}
	r.bareURL = fmt.Sprintf("http://127.0.0.1:%d", barePort)
	r.gateway, r.url, r.admin = r.startGateway("gateway")
	r.bare = testenv.StartProcess(t, "bare", testenv.Spec{Path: bare, Args: []string{fmt.Sprintf("127.0.0.1:%d", barePort)}})
	var err error
	if r.db, err = sql.Open("mysql", r.maria.DSN); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.db.Close(); http.DefaultClient.CloseIdleConnections() })
	answers(t, r.bareURL+"/")
	return r
}

// startGateway starts one more gateway and waits until it is ready.
func (r *rig) startGateway(name string) (p *testenv.Process, url, admin string) {
	r.t.Helper()
	port, adminPort := testenv.Port(r.t), testenv.Port(r.t)
	url, admin = fmt.Sprintf("http://127.0.0.1:%d", port), fmt.Sprintf("http://127.0.0.1:%d", adminPort)
	p = testenv.StartProcess(r.t, name, testenv.Spec{Path: r.bin, Args: []string{"serve"}, Env: append(slices.Clone(r.env),
		fmt.Sprintf("FLASHGATE_SERVER__LISTEN=127.0.0.1:%d", port), fmt.Sprintf("FLASHGATE_ADMIN__LISTEN=127.0.0.1:%d", adminPort))})
	answers(r.t, url+"/readyz")
	return p, url, admin
}

// stop ends the installation before the test does, so that it takes nothing from the next.
func (r *rig) stop() {
	for _, p := range []*testenv.Process{r.gateway, r.bare, r.nats.Process, r.redis.Process, r.maria.Process} {
		p.Kill()
	}
}

func answers(t *testing.T, url string) {
	t.Helper()
	testenv.Eventually(t, func() bool {
		res, err := http.Get(url)
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode < http.StatusInternalServerError
	}, "%s answers", url)
}

func (r *rig) put(sku string, total int64) { r.t.Helper(); r.putLimited(sku, total, 0) }

func (r *rig) putLimited(sku string, total, limit int64) {
	r.t.Helper()
	body, _ := json.Marshal(map[string]any{"total": total, "unit_price": 4999, "currency": "EUR", "title": "bench", "per_user_limit": limit})
	req, _ := http.NewRequest("PUT", r.admin+"/v1/skus/"+sku, bytes.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode > 201 {
		r.t.Fatalf("PUT %s: %d", sku, res.StatusCode)
	}
}

func (r *rig) orders() (n int64) {
	r.t.Helper()
	if err := r.db.QueryRow("SELECT COUNT(*) FROM orders").Scan(&n); err != nil {
		r.t.Fatal(err)
	}
	return n
}

// published counts the events on the results stream, from a stream sequence on.
func (r *rig) published(from uint64) (events int64, next uint64) {
	r.t.Helper()
	nc, err := nats.Connect(r.nats.URL)
	if err != nil {
		r.t.Fatal(err)
	}
	defer nc.Close()
	js, _ := jetstream.New(nc)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := js.Stream(ctx, "FLASHGATE")
	if err != nil {
		r.t.Fatal(err)
	}
	last := s.CachedInfo().State.LastSeq
	if last < from {
		return 0, last + 1
	}
	cons, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(1, from)})
	if err != nil {
		r.t.Fatal(err)
	}
	for {
		batch, err := cons.Fetch(200, jetstream.FetchMaxWait(5*time.Second))
		if err != nil {
			r.t.Fatal(err)
		}
		for msg := range batch.Messages() {
			events += int64(bytes.Count(msg.Data(), []byte(`"specversion"`)))
			if meta, err := msg.Metadata(); err == nil && meta.Sequence.Stream >= last {
				return events, last + 1
			}
		}
	}
}

// measure runs one load against a process and adds the processor time it cost.
func (r *rig) measure(p *testenv.Process, script, url string, env ...string) load {
	r.t.Helper()
	return r.measureFor(r.lasting(), p, script, url, env...)
}

// lasting is how long a measurement lasts.
func (r *rig) lasting() time.Duration { return time.Duration(*seconds) * time.Second }

func (r *rig) measureFor(d time.Duration, p *testenv.Process, script, url string, env ...string) load {
	r.t.Helper()
	before, parts := cpuTime(p.Pid()), r.cpuTimes()
	l, err := runWrk(script, url, d, *connections, env...)
	if err != nil {
		r.t.Fatal(err)
	}
	l.cpu = cpuTime(p.Pid()) - before
	for i, now := range r.cpuTimes() {
		l.parts[i] = now - parts[i]
	}
	return l
}

// cpuTimes is what the three servers have used so far: ledger, shield, results.
func (r *rig) cpuTimes() [3]time.Duration {
	return [3]time.Duration{cpuTime(r.maria.Pid()), cpuTime(r.redis.Pid()), cpuTime(r.nats.Pid())}
}

// reserve measures (b) and holds it to account: every answer a yes, every yes a row,
// every row an event within a second.
func (r *rig) reserve(env ...string) load {
	r.t.Helper()
	return r.account(func() load { return r.measure(r.gateway, "order.lua", r.url, env...) })
}

// account holds a load that is all reservations to account.
func (r *rig) account(measure func() load) load {
	r.t.Helper()
	rows := r.orders()
	_, seq := r.published(1 << 62)
	l := measure()
	<-time.After(time.Second)
	made := r.orders() - rows
	events, _ := r.published(seq)
	if l.refused != 0 {
		r.t.Errorf("%d of %d purchases were not reserved", l.refused, l.requests)
	}
	// Up to one order per connection was under way when the generator stopped.
	if made < l.requests || made > l.requests+int64(*connections) {
		r.t.Errorf("%d answers, %d rows", l.requests, made)
	}
	if events < made {
		r.t.Errorf("%d rows, %d events a second after the end", made, events)
	}
	return l
}

func TestBench(t *testing.T) {
	r := newRig(t)
	r.put("gone", 20_000)
	for r.sold("gone") < 20_000 {
		r.measure(r.gateway, "order.lua", r.url, "SKU=gone")
	}
	series := map[string][]load{}
	for round := range *rounds {
		// A SKU of its own per round, because a sale starts with an empty table of
		// orders, not with those of all sales before it.
		sku := fmt.Sprintf("SKU=bench-%d", round)
		r.put(sku[4:], 1_000_000_000)
		r.warm(sku)
		run(t, "bare", func() load { return r.measure(r.bare, "order.lua", r.bareURL, sku) }, series)
		if *profile != "" && round == 1 {
			go r.profileCPU(*profile)
		}
		run(t, "reserved", func() load { return r.reserve(sku) }, series)
		r.soldOut("soldout", "order.lua", series)
		r.soldOut("soldout-keyed", "keyed.lua", series)
	}
	if sold := r.sold("gone"); sold != 20_000 {
		t.Errorf("%d units of 20000 were sold", sold)
	}
	report(t, "one SKU", "bare", []string{"bare", "reserved", "soldout", "soldout-keyed"}, series)
}

// warm loads a SKU's shield and the connections, and lets what it caused settle.
func (r *rig) warm(env ...string) {
	if _, err := runWrk("order.lua", r.url, time.Second, *connections, env...); err != nil {
		r.t.Fatal(err)
	}
	<-time.After(1500 * time.Millisecond)
}

func (r *rig) soldOut(name, script string, series map[string][]load) {
	run(r.t, name, func() load {
		l := r.measure(r.gateway, script, r.url, "SKU=gone")
		if l.refused != l.requests {
			r.t.Errorf("%s: %d of %d purchases were refused", name, l.refused, l.requests)
		}
		return l
	}, series)
}

func run(t *testing.T, name string, fn func() load, series map[string][]load) {
	t.Helper()
	l := fn()
	series[name] = append(series[name], l)
	t.Logf("%-14s %8.0f/s  p50 %v  p99 %v  us each: server %.1f, mariadb %.1f, redis %.1f, nats %.1f", name, l.perSecond, l.p50, l.p99,
		l.each(l.cpu), l.each(l.parts[0]), l.each(l.parts[1]), l.each(l.parts[2]))
}

func (r *rig) sold(sku string) (n int64) {
	r.t.Helper()
	if err := r.db.QueryRow("SELECT SUM(sold) FROM stock WHERE sku = ?", sku).Scan(&n); err != nil {
		r.t.Fatal(err)
	}
	return n
}

func (r *rig) profileCPU(path string) {
	req, _ := http.NewRequest("GET", fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", r.admin, max(1, *seconds-1)), nil)
	req.Header.Set("Authorization", "Bearer "+key)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return
	}
	defer func() { _ = res.Body.Close() }()
	var b bytes.Buffer
	_, _ = b.ReadFrom(res.Body)
	_ = os.WriteFile(path, b.Bytes(), 0o644)
}

// result is one line of loadtest/results.ndjson.
type result struct {
	At          string             `json:"at"`
	Bench       string             `json:"bench"`
	Commit      string             `json:"commit"`
	Machine     string             `json:"machine"`
	Connections int                `json:"connections"`
	Rounds      int                `json:"rounds"`
	Seconds     int                `json:"seconds"`
	PerSecond   map[string]float64 `json:"per_second"`
	Base        string             `json:"base"`
	Ratio       map[string]float64 `json:"ratio"`
	CPU         map[string]float64 `json:"cpu_us"`
	P99         map[string]float64 `json:"p99_ms"`
}

// report prints medians, and ratios to the base taken round by round, and appends them to
// the results.
func report(t *testing.T, bench, base string, names []string, series map[string][]load) {
	if *delay > 0 {
		bench += fmt.Sprintf(", replies delayed by %v", *delay)
	}
	res := result{
		Bench: bench, Base: base, At: time.Now().UTC().Format(time.RFC3339), Commit: commit(), Machine: machine(),
		Connections: *connections, Rounds: *rounds, Seconds: *seconds,
		PerSecond: map[string]float64{}, Ratio: map[string]float64{}, CPU: map[string]float64{}, P99: map[string]float64{},
	}
	fmt.Printf("%-14s %10s %8s %10s %10s\n", "median of", "req/s", "ratio", "cpu us", "p99 ms")
	for _, name := range names {
		var rate, ratio, cpu, p99 []float64
		for i, l := range series[name] {
			rate, cpu, p99 = append(rate, l.perSecond), append(cpu, l.each(l.cpu)), append(p99, float64(l.p99.Microseconds())/1000)
			ratio = append(ratio, l.perSecond/series[base][i].perSecond)
		}
		res.PerSecond[name], res.Ratio[name], res.CPU[name], res.P99[name] = median(rate), median(ratio), median(cpu), median(p99)
		fmt.Printf("%-14s %10.0f %8.3f %10.1f %10.1f\n", name, median(rate), median(ratio), median(cpu), median(p99))
	}
	line, _ := json.Marshal(res)
	f, err := os.OpenFile(filepath.Join("..", "results.ndjson"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s) == 0 {
		return 0
	}
	return s[len(s)/2]
}

func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

func machine() string {
	model := "unknown processor"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if v, ok := strings.CutPrefix(line, "model name"); ok {
				model = strings.TrimSpace(strings.TrimLeft(v, "\t :"))
				break
			}
		}
	}
	return fmt.Sprintf("%s, %d cores, %s", model, runtime.NumCPU(), runtime.GOOS)
}
