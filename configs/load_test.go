package configs_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"flashgate/configs"
)

// write puts text into a file of the test's own and returns its path.
func write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaultsOfTheDesign(t *testing.T) {
	c := configs.Default(configs.Serve)
	redis := configs.Breaker{FailureRatio: 0.5, MinCalls: 20, Window: 5 * time.Second, Consecutive: 5, OpenFor: time.Second}
	for _, check := range []struct {
		key       string
		got, want any
	}{
		{"server.wait", c.Server.Wait, 5 * time.Second},
		{"queue", c.Queue, configs.Queue{Capacity: 20000, MaxBatch: 512, Inflight: 2, MaxAge: 8 * time.Second, Linger: 250 * time.Millisecond}},
		{"ledger.max_group", c.Ledger.MaxGroup, 1024},
		{"ledger.committers", c.Ledger.Committers, 2},
		{"limits.user", c.Limits.User, configs.Limit{Rate: 10, Burst: 20}},
		{"limits.ip", c.Limits.IP, configs.Limit{}},
		{"limits.sku", c.Limits.SKU, configs.Limit{}},
		{"limits.global", c.Limits.Global, configs.Limit{}},
		{"fallback", c.Fallback, configs.Fallback{Burst: 1000}},
		{"breaker.redis", c.Breaker.Redis, redis},
		{"backlog", c.Backlog, configs.Backlog{MaxWait: 5 * time.Minute, Capacity: 1_000_000}},
		{"pay_within", c.PayWithin, 15 * time.Minute},
		{"reconcile.period", c.Reconcile.Period, 2 * time.Second},
	} {
		if check.got != check.want {
			t.Errorf("%s is %v by default, want %v", check.key, check.got, check.want)
		}
	}
	if err := configs.Default(configs.Dev).Validate(configs.Dev); err != nil {
		t.Errorf("dev does not start with its own defaults: %v", err)
	}
	if c, err := configs.Load("", nil); err != nil || !reflect.DeepEqual(c, configs.Default(configs.Serve)) {
		t.Errorf("loading nothing changes the defaults (%v):\n%s", err, c.Print(false))
	}
}

func TestEnvironmentStandsOverFile(t *testing.T) {
	path := write(t, "c.yaml", "redis: {addrs: [a:1], db: 2}\nqueue:\n  capacity: 700\nlimits: {ip: {rate: 2.5, burst: 3}}\n")
	c, err := configs.Load(path, []string{
		"HOME=/", "FLASHGATE_REDIS__ADDRS=b:6379, c:6379", "FLASHGATE_LIMITS__IP__RATE=7", "FLASHGATE_PAY_WITHIN=90s",
		"FLASHGATE_REDIS__TLS=true", "FLASHGATE_AUTH__JWT__SECRET=a=b", "FLASHGATE_ADMIN__METRICS_OPEN=1",
		"FLASHGATE_PORT=tcp://10.0.0.1:80", "FLASHGATE_PORT_80_TCP_ADDR=10.0.0.1", "FLASHGATE_SERVICE_HOST=10.0.0.1", "FLASHGATE_SERVICE_PORT_HTTP=80",
		"FLASHGATE_REDIS_MASTER_PORT=tcp://10.0.0.2:6379", "FLASHGATE_REDIS_MASTER_SERVICE_HOST=10.0.0.2", "FLASHGATE_REDIS_PORT_6379_TCP_PROTO=tcp", "FLASHGATE_NATS_SERVICE_PORT=4222",
	})
	if err != nil {
		t.Fatal(err)
	}
	if w := strings.Join(c.Warnings(configs.Serve), "\n"); strings.Count(w, "no settings") != 1 || !strings.Contains(w, "FLASHGATE_REDIS_MASTER_PORT") || strings.Contains(w, "10.0.0.") {
		t.Errorf("warned of\n%s", w)
	}
	if got := c.Redis.Addrs; !reflect.DeepEqual(got, []string{"b:6379", "c:6379"}) {
		t.Errorf("redis.addrs = %q", got)
	}
	if c.Redis.DB != 2 || !c.Redis.TLS || c.Queue.Capacity != 700 || c.Limits.IP != (configs.Limit{Rate: 7, Burst: 3}) ||
		c.PayWithin != 90*time.Second || c.Auth.JWT.Secret != "a=b" || !c.Admin.MetricsOpen {
		t.Errorf("loaded\n%s", c.Print(false))
	}
}

func TestSecretsFromFiles(t *testing.T) {
	dsn := write(t, "dsn", "u:p@tcp(db)/x\n")
	hooks := write(t, "hooks", "new\nold\n")
	path := write(t, "c.yaml", "ledger: {dsn_file: "+dsn+"}\nadmin: {key: from-yaml}\n")
	c, err := configs.Load(path, []string{"FLASHGATE_PAYMENTS__WEBHOOK_SECRETS_FILE=" + hooks, "FLASHGATE_ADMIN__KEY_FILE=" + dsn})
	if err != nil {
		t.Fatal(err)
	}
	if c.Ledger.DSN != "u:p@tcp(db)/x" || c.Admin.Key != "u:p@tcp(db)/x" {
		t.Errorf("dsn %q, key %q", c.Ledger.DSN, c.Admin.Key)
	}
	if !reflect.DeepEqual(c.Payments.WebhookSecrets, []string{"new", "old"}) {
		t.Errorf("webhook secrets %q", c.Payments.WebhookSecrets)
	}
}

func TestDerivedValues(t *testing.T) {
	c, err := configs.Load("", []string{"FLASHGATE_QUEUE__CAPACITY=100", "FLASHGATE_QUEUE__MAX_AGE=2s", "FLASHGATE_SERVER__WAIT=30s"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Queue.MaxBatch != 100 {
		t.Errorf("a batch size nobody gave is %d with a queue of 100", c.Queue.MaxBatch)
	}
	if c.Reconcile.Grace != 6*time.Second {
		t.Errorf("a grace nobody gave is %s with a max_age of 2s", c.Reconcile.Grace)
	}
	if c.Server.Wait != 2*time.Second {
		t.Errorf("server.wait is %s, longer than any claim lives", c.Server.Wait)
	}
}

// TestUnreadable holds each refusal of Load to one line that names the key.
func TestUnreadable(t *testing.T) {
	secret := write(t, "secret", "s\n")
	empty := write(t, "empty", "\n")
	huge := write(t, "huge", strings.Repeat("x", 2<<20))
	for _, c := range []struct{ name, yaml, env, want string }{
		{"unknown key", "queue: {size: 3}", "", "queue.size: no such key"},
		{"unknown section", "cache: {size: 3}", "", "cache.size: no such key"},
		{"unknown variable", "", "FLASHGATE_QUEUE__SIZE=3", "FLASHGATE_QUEUE__SIZE: no such key"},
		{"one underscore", "", "FLASHGATE_QUEUE_CAPACITY=3", "did you mean FLASHGATE_QUEUE__CAPACITY?"},
		{"lower case", "", "FLASHGATE_queue__capacity=3", "no such key; did you mean FLASHGATE_QUEUE__CAPACITY?"},
		{"section left out", "max_batch: 3", "", "max_batch: no such key; did you mean queue.max_batch?"},
		{"section with a value", "queue: 3", "", "queue: is a section of keys"},
		{"section in the environment", "", "FLASHGATE_QUEUE=3", "FLASHGATE_QUEUE: is a section of keys"},
		{"no value", "queue: {capacity: }", "", "queue.capacity: has no value"},
		{"number", "queue: {capacity: many}", "", `queue.capacity: must be a number, not "many"`},
		{"number from nothing", "", "FLASHGATE_QUEUE__CAPACITY=", "FLASHGATE_QUEUE__CAPACITY: must be a number"},
		{"fraction", "queue: {capacity: 1.5}", "", "queue.capacity: must be a whole number"},
		{"not a number", "fallback: {rate: .nan}", "", "fallback.rate: must be a number"},
		{"infinity", "", "FLASHGATE_FALLBACK__RATE=inf", "must be a number"},
		{"bare duration", "server: {wait: 5}", "", `server.wait: must be a duration such as 500ms, 5s or 15m, not "5"`},
		{"wrong duration", "", "FLASHGATE_SERVER__WAIT=5 seconds", "must be a duration"},
		{"days", "pay_within: 1d", "", "pay_within: must be a duration"},
		{"truth", "redis: {tls: perhaps}", "", "redis.tls: must be true or false"},
		{"text", "redis: {password: 0123}", "", "redis.password: must be a text; put it in quotes"},
		{"control characters", "", "FLASHGATE_REDIS__PASSWORD=a\x00b", "holds characters that are not text"},
		{"list of numbers", "redis: {addrs: [1, 2]}", "", "redis.addrs: must be a list of texts"},
		{"list that is a map", "redis: {addrs: {a: 1}}", "", "redis.addrs.a: no such key"},
		{"list that is a number", "redis: {addrs: 6379}", "", "redis.addrs: must be a list"},
		{"secret twice", "ledger: {dsn: x, dsn_file: " + secret + "}", "", "ledger.dsn_file: ledger.dsn is given too"},
		{"secret twice in the environment", "", "FLASHGATE_LEDGER__DSN=x;FLASHGATE_LEDGER__DSN_FILE=" + secret, "FLASHGATE_LEDGER__DSN_FILE: FLASHGATE_LEDGER__DSN is given too"},
		{"secret's file missing", "", "FLASHGATE_LEDGER__DSN_FILE=/nowhere/dsn", "FLASHGATE_LEDGER__DSN_FILE: open /nowhere/dsn"},
		{"secret's file empty", "", "FLASHGATE_LEDGER__DSN_FILE=" + empty, "is empty"},
		{"secret's file unnamed", "", "FLASHGATE_LEDGER__DSN_FILE=", "must be the path of a file"},
		{"secret's file huge", "", "FLASHGATE_LEDGER__DSN_FILE=" + huge, "is larger than"},
		{"file of no secret", "", "FLASHGATE_REDIS__ADDRS_FILE=" + secret, "FLASHGATE_REDIS__ADDRS_FILE: no such key"},
		{"no map", "just words", "", "c.yaml: "},
		{"not YAML", "a: [", "", "c.yaml: "},
		{"same key twice", "queue: {capacity: 3, capacity: 4}", "", "c.yaml: "},
		{"two documents", "log: {level: info}\n---\nlog: {level: debug}\n", "", "more than one YAML document"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := ""
			if c.yaml != "" {
				path = write(t, "c.yaml", c.yaml)
			}
			_, err := configs.Load(path, strings.Split(c.env, ";"))
			if err == nil {
				t.Fatal("not refused")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("refused with %q, want %q in it", err, c.want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("one problem, several lines:\n%v", err)
			}
		})
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	_, err := configs.Check(configs.Serve, "", []string{"FLASHGATE_QUEUE__A=1", "FLASHGATE_QUEUE__INFLIGHT=x", "FLASHGATE_QUEUE__CAPACITY=0", "FLASHGATE_LOG__LEVEL=loud"})
	if err == nil {
		t.Fatal("not refused")
	}
	for _, want := range []string{"FLASHGATE_QUEUE__A: ", "FLASHGATE_QUEUE__INFLIGHT: ", "queue.capacity: ", "log.level: ", "ledger.dsn: ", "nats.url: ", "redis.addrs: ", "admin.key: ", "auth.jwt: "} {
		if !strings.Contains("\n"+err.Error(), "\n"+want) {
			t.Errorf("no line for %q in\n%v", want, err)
		}
	}
}

func TestPrintHidesSecrets(t *testing.T) {
	secrets := []string{"FLASHGATE_ADMIN__KEY=hidden1", "FLASHGATE_AUTH__JWT__SECRET=hidden2", "FLASHGATE_AUTH__JWT__PUBLIC_KEY=hidden3",
		"FLASHGATE_REDIS__PASSWORD=hidden4", "FLASHGATE_REDIS__SENTINEL_PASSWORD=hidden5", "FLASHGATE_LEDGER__DSN=u:hidden6@tcp(h)/d",
		"FLASHGATE_NATS__URL=nats://u:hidden7@n1:4222,nats://hidden8@n2:4222", "FLASHGATE_NATS__MONITOR_URL=http://u:hidden9@m", "FLASHGATE_PAYMENTS__WEBHOOK_SECRETS=hidden11,hidden12"}
	c, err := configs.Load("", secrets)
	if err != nil {
		t.Fatal(err)
	}
	shown := string(c.Print(true))
	if strings.Contains(shown, "hidden") {
		t.Errorf("a secret is shown:\n%s", shown)
	}
	if !strings.Contains(shown, "n1:4222") || strings.Count(shown, "[redacted]") < 8 {
		t.Errorf("what is set cannot be seen:\n%s", shown)
	}
	if strings.Contains(string(configs.Default(configs.Serve).Print(true)), "redacted") {
		t.Error("a secret that is not set is shown as if it were")
	}
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		text := rapid.StringMatching(`[ -~äöü€]{0,20}`)
		c := configs.Default(configs.Serve)
		c.Admin.Key = text.Draw(r, "key")
		c.Redis.Addrs = rapid.SliceOf(rapid.StringMatching(`[!-+\--~]{1,10}`)).Draw(r, "addrs")
		c.Server.TrustedProxies, c.Payments.WebhookSecrets = []string{}, []string{}
		c.Queue.Capacity = rapid.IntRange(513, 1<<40).Draw(r, "capacity")
		c.Fallback.Rate = rapid.Float64Range(-1e12, 1e12).Draw(r, "rate")
		c.PayWithin = time.Duration(rapid.Int64().Draw(r, "pay_within"))
		c.Redis.TLS = rapid.Bool().Draw(r, "tls")
		got, err := configs.Load(write(t, "c.yaml", string(c.Print(false))), nil)
		if err != nil {
			r.Fatalf("what Print wrote is refused: %v\n%s", err, c.Print(false))
		}
		if !reflect.DeepEqual(got, c) {
			r.Fatalf("round trip:\n%s\nbecame\n%s", c.Print(false), got.Print(false))
		}
	})
}

// FuzzLoad holds the loader to its word on any input: no panic, problems in single
// lines, and what it accepts can be printed and read again.
func FuzzLoad(f *testing.F) {
	sample, err := os.ReadFile("flashgate.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(sample), "FLASHGATE_QUEUE__CAPACITY=3")
	f.Add("queue: {capacity: 3}\n", "FLASHGATE_REDIS__ADDRS=,a,")
	f.Add("? [a, b]\n: c\n", "FLASHGATE_=1")
	f.Add("server: &a {listen: x}\nadmin: *a\n", "FLASHGATE_.=")
	f.Add("1: 2\ntrue: no\n", "FLASHGATE___=")
	f.Add("<<: [1]\n", "=")
	f.Fuzz(func(t *testing.T, text, variable string) {
		if strings.Contains(variable, "_FILE") || strings.Contains(text, "_file") {
			t.Skip("reads files of the machine")
		}
		c, err := configs.Load(write(t, "c.yaml", text), []string{variable})
		if err != nil {
			return
		}
		_ = c.Validate(configs.Serve)
		again, err := configs.Load(write(t, "d.yaml", string(c.Print(false))), nil)
		if err != nil {
			t.Fatalf("what Print wrote is refused: %v\n%s", err, c.Print(false))
		}
		if string(again.Print(false)) != string(c.Print(false)) {
			t.Fatalf("round trip:\n%s\nbecame\n%s", c.Print(false), again.Print(false))
		}
	})
}
