package faults

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"flashgate/internal/testenv"
)

// command runs an operator's command on the cluster's servers. Unlike a gateway, which
// goes around a Redis that is slow, a command fails on it, so it is given time.
func (c *cluster) command(args ...string) (out string, ok bool) {
	return c.commandWith([]string{"FLASHGATE_REDIS__READ_TIMEOUT=5s"}, args...)
}

// commandWith does so with further environment.
func (c *cluster) commandWith(env []string, args ...string) (out string, ok bool) {
	c.t.Helper()
	cmd := exec.Command(testenv.Binary(c.t), args...)
	cmd.Env = append(append(os.Environ(), c.env...), env...)
	b, err := cmd.CombinedOutput()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		c.t.Fatalf("%v: %v", args, err)
	}
	return string(b), err == nil
}

// audit runs the audit, again while a part did not answer in time.
func (c *cluster) audit(args ...string) (out string, ok bool) {
	c.t.Helper()
	testenv.Patiently(func() bool {
		out, ok = c.command(append([]string{"audit"}, args...)...)
		return !strings.Contains(out, ": not checked: ")
	})
	return out, ok
}

// checkAudit fails the test when the audit finds anything that must not be.
func (c *cluster) checkAudit() {
	c.t.Helper()
	var out string
	testenv.Eventually(c.t, func() bool {
		var ok bool
		out, ok = c.audit()
		if !ok && brokenPromises(out) != "" {
			c.t.Fatalf("the audit found:\n%s", out)
		}
		return ok
	}, "the audit finds nothing late")
	if strings.Contains(out, "warning:") {
		c.t.Logf("the audit warns:\n%s", out)
	}
}

var findingLine = regexp.MustCompile(`^[a-z_]+: `)

// brokenPromises are the findings of an audit, without those that a busy machine
// explains: that something is late.
func brokenPromises(out string) string {
	var kept strings.Builder
	for line := range strings.Lines(out) {
		switch check, _, _ := strings.Cut(line, ": "); check {
		case "outbox_age", "shield_tentative", "ok", "warning", "flashgate", "position":
		default:
			if findingLine.MatchString(line) && !strings.Contains(line, ": not checked: ") {
				kept.WriteString(line)
			}
		}
	}
	return kept.String()
}

func TestCommandsRefuseWhatCannotBe(t *testing.T) {
	c := newCluster(t, 1, parts{})
	for _, tc := range []struct {
		env  string
		args []string
		want string
	}{
		{"", []string{"reconcile", "shoe"}, "only with --rebuild"},
		{"", []string{"reconcile", "--rebuild", "nothing-such"}, "nothing-such"},
		{"FLASHGATE_REDIS__ADDRS=", []string{"reconcile"}, "redis.addrs"},
		{"FLASHGATE_NATS__URL=", []string{"reconcile"}, "nats.url"},
		{"FLASHGATE_NATS__URL=", []string{"restore"}, "nats.url"},
	} {
		out, ok := c.commandWith([]string{tc.env}, tc.args...)
		if ok || !strings.Contains(out, tc.want) {
			t.Errorf("%s %v: ok %v\n%s", tc.env, tc.args, ok, out)
		}
	}
	// What is not configured is not audited, and said not to be.
	out, ok := c.commandWith([]string{"FLASHGATE_NATS__URL=", "FLASHGATE_REDIS__ADDRS="}, "audit")
	if !ok || !strings.Contains(out, "warning: results_published: not checked") || !strings.Contains(out, "warning: shield_units: not checked") {
		t.Errorf("ok %v\n%s", ok, out)
	}
	// What is configured and away was not audited either, and that is no "ok".
	out, ok = c.commandWith([]string{"FLASHGATE_NATS__URL=nats://127.0.0.1:1"}, "audit")
	if ok || strings.Contains(out, "warning: results") || !strings.Contains(out, "results_published: not checked") {
		t.Errorf("ok %v\n%s", ok, out)
	}
}
