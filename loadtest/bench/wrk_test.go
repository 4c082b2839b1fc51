package bench

import (
	"testing"
	"time"
)

func TestParseWrk(t *testing.T) {
	l, err := parseWrk(`Running 2s test @ http://127.0.0.1:1/
  2 threads and 512 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    10.00ms    2.00ms  50.00ms   80.00%
    Req/Sec    20.00k     1.00k   25.00k    70.00%
  Latency Distribution
     50%    9.50ms
     75%   11.00ms
     90%   13.00ms
     99%    1.25s
  81234 requests in 2.01s, 20.00MB read
  Non-2xx or 3xx responses: 81
Requests/sec:  40415.21
Transfer/sec:      9.95MB
`)
	if err != nil || l.requests != 81234 || l.refused != 81 || l.perSecond != 40415.21 || l.p50 != 9500*time.Microsecond || l.p99 != 1250*time.Millisecond {
		t.Errorf("%+v %v", l, err)
	}
	for _, bad := range []string{"", "81234 requests in 2.01s", "81234 requests in 2s\nRequests/sec: 1\n  Socket errors: connect 0, read 3, write 0, timeout 0"} {
		if _, err := parseWrk(bad); err == nil {
			t.Errorf("%q was taken for a result", bad)
		}
	}
}
