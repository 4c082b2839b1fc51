package testenv

import (
	"bufio"
	"database/sql"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("TESTENV_CHILD") != "" {
		os.Exit(childMain())
	}
	Main(m)
}

func TestRedisForgetsWhenKilledAndReplicaIsPromoted(t *testing.T) {
	r := Redis(t)
	r.MustDo(t, "SET", "k", "v")
	replica := RedisReplica(t, r)
	Eventually(t, func() bool {
		v, err := replica.Do("GET", "k")
		return err == nil && v == "v"
	}, "the replica has the key")
	r.Restart(t)
	if v := r.MustDo(t, "GET", "k"); v != "" {
		t.Errorf("a restarted redis still knows %q", v)
	}
	replica.Promote(t)
	replica.MustDo(t, "SET", "k", "w")
	r.Kill()
	if _, err := r.Do("PING"); err == nil {
		t.Error("a killed redis answers")
	}
}

func TestMariaDBKeepsWhatItCommitted(t *testing.T) {
	m := OwnMariaDB(t)
	db, err := sql.Open("mysql", m.DSN)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.Exec("CREATE TABLE x (a INT)"); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("INSERT INTO x VALUES (7)"); err != nil {
		t.Fatal(err)
	}
	m.Restart(t)
	var a int
	Eventually(t, func() bool {
		return db.QueryRow("SELECT a FROM x").Scan(&a) == nil
	}, "the table is read again")
	if a != 7 {
		t.Errorf("read %d, want 7", a)
	}
}

func TestMariaDBGivesEachTestItsOwnDatabase(t *testing.T) {
	a, b := MariaDB(t), MariaDB(t)
	if a.Addr != b.Addr || a.DSN == b.DSN {
		t.Errorf("want one server and two databases, got %s and %s", a.DSN, b.DSN)
	}
}

func TestOwnServersAreNoLeaks(t *testing.T) {
	MariaDB(t)
	goleak.VerifyNone(t, Leaks()...)
}

func TestNATSRestarts(t *testing.T) {
	n := NATS(t)
	n.Restart(t)
	if !n.Running() {
		t.Error("not running after a restart")
	}
}

// TestChildrenDieWithTheTest starts this test binary as a child, has it start a
// sleeper, and kills it.
func TestChildrenDieWithTheTest(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "TESTENV_CHILD=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	for _, c := range strings.TrimSpace(line) {
		pid = pid*10 + int(c-'0')
	}
	if syscall.Kill(pid, 0) != nil {
		t.Fatal("the sleeper does not run")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	Eventually(t, func() bool { return !alive(pid) }, "the sleeper ends with its parent")
}

// alive does not count a process that has ended and waits to be reaped.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	b, err := exec.Command("ps", "-o", "stat=", "-p", itoa(pid)).Output()
	return err == nil && !strings.HasPrefix(strings.TrimSpace(string(b)), "Z")
}

func TestProxy(t *testing.T) {
	tests := []struct {
		name string
		do   func(p *Proxy) <-chan struct{}
		sent string // what the client sends
		got  string // what the server gets
		back string // what the client gets back
	}{
		{"lets through", func(*Proxy) <-chan struct{} { return nil }, "hello", "hello", "HELLO"},
		{"swallows a reply", func(p *Proxy) <-chan struct{} { return p.SwallowReply("COMMIT") }, "a COMMIT", "a COMMIT", ""},
		{"cuts before", func(p *Proxy) <-chan struct{} { return p.CutBefore("COMMIT") }, "a COMMIT", "", ""},
		{"another pattern", func(p *Proxy) <-chan struct{} { p.SwallowReply("COMMIT"); return nil }, "a comma", "a comma", "A COMMA"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			addr, got := shouter(t)
			p := NewProxy(t, addr)
			sprung := tc.do(p)
			back := say(t, p.Addr, tc.sent)
			if back != tc.back {
				t.Errorf("the client got %q, want %q", back, tc.back)
			}
			if sprung != nil {
				<-sprung
			}
			if g := got(); g != tc.got {
				t.Errorf("the server got %q, want %q", g, tc.got)
			}
		})
	}
}

func TestProxyRefusesPausesAndCuts(t *testing.T) {
	addr, _ := shouter(t)
	p := NewProxy(t, addr)
	p.Refuse(true)
	if back := say(t, p.Addr, "x"); back != "" {
		t.Errorf("got %q through a refusing proxy", back)
	}
	p.Refuse(false)
	c, err := net.Dial("tcp", p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	buf := make([]byte, 16)
	p.Pause()
	_, _ = c.Write([]byte("one"))
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
	if n, err := c.Read(buf); err == nil {
		t.Errorf("got %q through a paused proxy", buf[:n])
	}
	p.Resume()
	_ = c.SetReadDeadline(time.Now().Add(Patience))
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "ONE" {
		t.Errorf("after the pause: %q, %v", buf[:n], err)
	}
	p.Cut()
	if _, err := c.Read(buf); err == nil {
		t.Error("a cut connection still reads")
	}
	if back := say(t, p.Addr, "y"); back != "Y" {
		t.Errorf("after a cut: %q", back)
	}
}

func TestTerminateTellsHowAProcessEnded(t *testing.T) {
	p := StartProcess(t, "sh", Spec{Path: "/bin/sh", Args: []string{"-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.01; done"}})
	Eventually(t, func() bool { return strings.Contains(p.Output(), "up") }, "sh is up")
	err := p.Terminate()
	exit, ok := err.(*exec.ExitError)
	if !ok || exit.ExitCode() != 3 || !strings.Contains(p.Output(), "bye") {
		t.Errorf("ended with %v, output %q", err, p.Output())
	}
	if p.Running() {
		t.Error("still running")
	}
}

func TestTrapsOfOneConnection(t *testing.T) {
	addr, got := shouter(t)
	p := NewProxy(t, addr)
	sprung := p.CutAfter("buyer", "COMMIT")
	if back := say(t, p.Addr, "a COMMIT before buyer"); back == "" {
		t.Error("a COMMIT was cut that came before the buyer")
	}
	if back := say(t, p.Addr, "COMMIT"); back != "COMMIT" {
		t.Errorf("the COMMIT of another connection: %q", back)
	}
	if back := say(t, p.Addr, "buyer, COMMIT"); back != "" {
		t.Errorf("the buyer's COMMIT: %q", back)
	}
	<-sprung
	p.SwallowReply("COMMIT")
	p.Disarm()
	if back := say(t, p.Addr, "one more COMMIT"); back == "" {
		t.Error("a trap that was disarmed has been sprung")
	}
	if g := got(); strings.Contains(g, "buyer, ") {
		t.Errorf("the server got %q", g)
	}
}

func TestClusterAndSentinelsOfRedis(t *testing.T) {
	ClusterTier(t)
	master := Redis(t)
	RedisReplica(t, master)
	s := Sentinels(t, master, 1)
	if at, err := s.MasterAddr(); err != nil || at != master.Addr {
		t.Errorf("the master is at %q, want %q: %v", at, master.Addr, err)
	}
	master.Kill()
	Eventually(t, func() bool {
		at, err := s.MasterAddr()
		return err == nil && at != master.Addr
	}, "the replica is promoted")
	c := Cluster(t, 3)
	seen := map[int]bool{}
	for _, key := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		i := c.MasterOf(t, key)
		seen[i] = true
		c.Masters[i].MustDo(t, "SET", key, "v")
	}
	if len(seen) != 3 {
		t.Errorf("eight keys lie on %d masters", len(seen))
	}
}
