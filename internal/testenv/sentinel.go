package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// RedisSentinels watch a master and promote one of its replicas when it is gone.
type RedisSentinels struct {
	Master string   // the name they know it by
	Addrs  []string // the sentinels' own
	first  *RedisServer
}

// Sentinels starts three sentinels over a master, and waits until they agree about it
// and know its replicas.
func Sentinels(t testing.TB, master *RedisServer, replicas int) *RedisSentinels {
	t.Helper()
	path, err := program("redis-server", "redis-server")
	if err != nil {
		t.Fatal(err)
	}
	s := &RedisSentinels{Master: "flashgate"}
	var all []*RedisServer
	for range 3 {
		port, dir := Port(t), tempDir(t)
		conf := filepath.Join(dir, "sentinel.conf")
		text := fmt.Sprintf("port %d\nbind 127.0.0.1\ndir %s\nsentinel monitor %[3]s 127.0.0.1 %d 2\n"+
			"sentinel down-after-milliseconds %[3]s 3000\nsentinel failover-timeout %[3]s 10000\n",
			port, dir, s.Master, master.Port)
		if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		one := &RedisServer{Addr: loopback(port), Port: port}
		one.Process = StartProcess(t, "sentinel-"+strconv.Itoa(port), Spec{Path: path, Args: []string{conf, "--sentinel"}})
		if err := one.awaitReady(); err != nil {
			t.Fatal(err)
		}
		all, s.Addrs = append(all, one), append(s.Addrs, one.Addr)
	}
	s.first = all[0]
	for _, one := range all {
		Eventually(t, func() bool {
			state, err := one.Do("SENTINEL", "MASTER", s.Master)
			return err == nil && strings.Contains(state, fmt.Sprintf("num-slaves\n%d\nnum-other-sentinels\n%d\n", replicas, len(all)-1))
		}, "%s knows %d replicas and the other sentinels", one.Name, replicas)
	}
	return s
}

// MasterAddr is where the sentinels say that the master is.
func (s *RedisSentinels) MasterAddr() (string, error) {
	at, err := s.first.Do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", s.Master)
	return strings.Replace(at, "\n", ":", 1), err
}
