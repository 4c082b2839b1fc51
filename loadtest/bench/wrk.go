package bench

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// load is one run of wrk.
type load struct {
	requests  int64
	refused   int64 // answers other than 2xx and 3xx
	perSecond float64
	p50, p99  time.Duration
	cpu       time.Duration // what the server's process used meanwhile
	parts     [3]time.Duration
}

// each is a time per request, in microseconds.
func (l load) each(d time.Duration) float64 { return float64(d.Microseconds()) / float64(l.requests) }

var (
	requestsLine = regexp.MustCompile(`(\d+) requests in`)
	refusedLine  = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)`)
	errorsLine   = regexp.MustCompile(`Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)`)
	rateLine     = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	latencyLine  = regexp.MustCompile(`\s(50|99)%\s+([\d.]+)(us|ms|s)`)
)

// runWrk loads url with a script for the given time and reads what wrk prints.
func runWrk(script, url string, d time.Duration, connections int, env ...string) (load, error) {
	cmd := exec.Command("wrk", "-t2", "-c"+strconv.Itoa(connections), fmt.Sprintf("-d%ds", int(d.Seconds())), "--latency", "--timeout", "10s", "-s", script, url)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return load{}, fmt.Errorf("wrk: %w\n%s", err, out)
	}
	return parseWrk(string(out))
}

func parseWrk(out string) (load, error) {
	var l load
	m := requestsLine.FindStringSubmatch(out)
	r := rateLine.FindStringSubmatch(out)
	if m == nil || r == nil {
		return l, fmt.Errorf("wrk printed no figures:\n%s", out)
	}
	l.requests, _ = strconv.ParseInt(m[1], 10, 64)
	l.perSecond, _ = strconv.ParseFloat(r[1], 64)
	if m := refusedLine.FindStringSubmatch(out); m != nil {
		l.refused, _ = strconv.ParseInt(m[1], 10, 64)
	}
	if m := errorsLine.FindStringSubmatch(out); m != nil {
		return l, fmt.Errorf("wrk met %s", m[0])
	}
	for _, m := range latencyLine.FindAllStringSubmatch(out, -1) {
		d, err := time.ParseDuration(m[2] + m[3])
		if err != nil {
			return l, err
		}
		if m[1] == "50" {
			l.p50 = d
		} else {
			l.p99 = d
		}
	}
	return l, nil
}

// cpuTime is the processor time a process has used: fields 14 and 15 of
// /proc/<pid>/stat, in ticks of 1/100 s (proc(5)).
func cpuTime(pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
}
