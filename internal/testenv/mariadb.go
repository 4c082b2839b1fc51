package testenv

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql" // the driver behind database/sql
)

// MariaDBServer is a mariadbd that flushes with every commit, and a database of the
// test's own in it. Stop, Cont, Kill and the like are those of its process.
type MariaDBServer struct {
	*Process
	DSN      string // root@tcp(127.0.0.1:port)/Database
	Addr     string
	Database string
}

var sharedMariaDB struct {
	sync.Once
	server *MariaDBServer
	err    error
}

var databases atomic.Int64

// MariaDB makes a fresh database in the server that all tests of this binary share
// (started by the first one that asks, stopped by Main). A test that hurts the
// server takes OwnMariaDB.
func MariaDB(t testing.TB) *MariaDBServer {
	t.Helper()
	needsServers(t)
	sharedMariaDB.Do(func() {
		dir, err := newDir()
		if err != nil {
			sharedMariaDB.err = err
			return
		}
		s, err := startMariaDB(dir, nil, nil)
		sharedMariaDB.server, sharedMariaDB.err = s, err
		atExit(func() {
			if s != nil {
				s.Kill()
			}
			_ = os.RemoveAll(dir)
		})
	})
	if sharedMariaDB.err != nil {
		t.Fatal(sharedMariaDB.err)
	}
	return sharedMariaDB.server.fresh(t)
}

// OwnMariaDB starts a mariadbd for this test alone; extra are further server options
// ("--innodb-lock-wait-timeout=1").
func OwnMariaDB(t testing.TB, extra ...string) *MariaDBServer {
	t.Helper()
	needsServers(t)
	return ownMariaDB(t, tempDir(t), nil, extra)
}

func ownMariaDB(t testing.TB, dir string, env, extra []string) *MariaDBServer {
	t.Helper()
	s, err := startMariaDB(dir, env, extra)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.endOfTest(t) })
	return s.fresh(t)
}

// ClockedMariaDB starts a mariadbd for this test alone, and returns a function that sets its
// clock ahead of this machine's, or, with less than zero, behind it.
func ClockedMariaDB(t testing.TB, extra ...string) (s *MariaDBServer, set func(ahead time.Duration)) {
	t.Helper()
	needsServers(t)
	library, err := fakeTime()
	if err != nil {
		t.Fatal(err)
	}
	dir := tempDir(t)
	file := filepath.Join(dir, "clock")
	set = func(ahead time.Duration) {
		// Whoever reads it meanwhile reads the one or the other.
		next := file + ".next"
		err := os.WriteFile(next, fmt.Appendf(nil, "%+.3f\n", ahead.Seconds()), 0o644)
		if err == nil {
			err = os.Rename(next, file)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	set(0)
	// Only what time it is changes, and not how it passes.
	env := []string{"LD_PRELOAD=" + library, "FAKETIME_TIMESTAMP_FILE=" + file, "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1"}
	return ownMariaDB(t, dir, env, extra), set
}

// fakeTime is the path of libfaketime for programs with threads.
func fakeTime() (string, error) {
	const pattern = "/usr/lib/*/faketime/libfaketimeMT.so.1"
	if found, _ := filepath.Glob(pattern); len(found) == 0 {
		// Its package has no program: the one that it is installed for is looked for in vain.
		_, _ = program("libfaketime", "libfaketime")
	}
	found, _ := filepath.Glob(pattern)
	if len(found) == 0 {
		return "", fmt.Errorf("there is no %s", pattern)
	}
	return found[0], nil
}

// fresh is the same server with a new empty database.
func (s *MariaDBServer) fresh(t testing.TB) *MariaDBServer {
	t.Helper()
	name := "t" + strconv.FormatInt(databases.Add(1), 10)
	s.exec(t, "CREATE DATABASE "+name)
	t.Cleanup(func() {
		if s == sharedMariaDB.server {
			s.exec(t, "DROP DATABASE "+name)
		}
	})
	return &MariaDBServer{Process: s.Process, Addr: s.Addr, Database: name, DSN: s.DSN + name}
}

func (s *MariaDBServer) exec(t testing.TB, query string) {
	t.Helper()
	db, err := sql.Open("mysql", s.DSN)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	if _, err := db.ExecContext(ctx, query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// Restart kills the server, if it runs, and starts it again on the same port and
// data, as after a power cut of the process alone.
func (s *MariaDBServer) Restart(t testing.TB) {
	t.Helper()
	s.Kill()
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.awaitReady(); err != nil {
		t.Fatal(err)
	}
}

func (s *MariaDBServer) awaitReady() error {
	db, err := sql.Open("mysql", "root@tcp("+s.Addr+")/")
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	return s.await(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), Patience/4)
		defer cancel()
		return db.PingContext(ctx)
	})
}

func startMariaDB(dir string, env, extra []string) (*MariaDBServer, error) {
	path, err := program("mariadbd", "mariadb-server")
	if err != nil {
		return nil, err
	}
	template, err := mariadbTemplate(path)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	if err := os.CopyFS(data, os.DirFS(template)); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	// Durable as in production (a flush per commit), sized so that a load test does
	// not measure checkpoints.
	args := append([]string{
		"--no-defaults", "--datadir=" + data, "--user=" + userName(),
		"--bind-address=127.0.0.1", "--port=" + strconv.Itoa(port), "--socket=" + filepath.Join(dir, "s"),
		// A server that starts removes the temporary tables of others from their common
		// directory, so each has its own.
		"--tmpdir=" + dir,
		"--pid-file=" + filepath.Join(dir, "pid"), "--skip-log-bin", "--skip-name-resolve",
		"--max-connections=500", "--innodb-flush-log-at-trx-commit=1", "--innodb-log-file-size=256M",
		"--innodb-buffer-pool-size=512M", "--innodb-fast-shutdown=1",
	}, extra...)
	name := "mariadb-" + strconv.Itoa(port)
	p, err := startProcess(dir, name, Spec{Path: path, Args: args, Env: env})
	if err != nil {
		return nil, err
	}
	s := &MariaDBServer{Process: p, Addr: loopback(port), DSN: "root@tcp(" + loopback(port) + ")/"}
	if err := s.awaitReady(); err != nil {
		p.Kill()
		return nil, err
	}
	return s, nil
}

var versionPattern = regexp.MustCompile(`\d+\.\d+\.\d+`)

// mariadbTemplate is an installed, empty data directory for this version of the
// server: installing takes many seconds, copying does not.
func mariadbTemplate(server string) (string, error) {
	out, err := exec.Command(server, "--version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", server, err)
	}
	install, err := program("mariadb-install-db", "mariadb-server")
	if err != nil {
		return "", err
	}
	return cached("mariadb-"+versionPattern.FindString(string(out)), func(path string) error {
		cmd := exec.Command(install, "--no-defaults", "--datadir="+path, "--user="+userName(),
			"--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-log-file-size=8M")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
}

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "root"
}
