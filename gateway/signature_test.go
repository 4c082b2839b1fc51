package gateway

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// mac is what a provider that holds the secret puts into v1.
func mac(secret, stamp, body string) string {
	m := hmac.New(sha256.New, []byte(secret))
	_, _ = m.Write([]byte(stamp + "." + body))
	return hex.EncodeToString(m.Sum(nil))
}

// sign makes the field of one signature.
func sign(secret string, at time.Time, body string) string {
	stamp := strconv.FormatInt(at.Unix(), 10)
	return "t=" + stamp + ",v1=" + mac(secret, stamp, body)
}

func TestGenuine(t *testing.T) {
	const body = `{"event_id":"e"}`
	now := time.Unix(1_700_000_000, 999_000_000)
	stamp := "1700000000"
	good, other := mac("new", stamp, body), mac("elsewhere", stamp, body)
	p := Payments{WebhookSecrets: []string{"new", "old"}, Tolerance: 5 * time.Minute}
	at := func(d time.Duration) []string { return []string{sign("new", now.Add(d), body)} }
	for name, x := range map[string]struct {
		fields []string
		want   bool
	}{
		"one":                         {at(0), true},
		"the older secret":            {[]string{sign("old", now, body)}, true},
		"another's secret":            {[]string{sign("elsewhere", now, body)}, false},
		"an empty secret":             {[]string{sign("", now, body)}, false},
		"the right one last":          {[]string{"t=" + stamp + ",v1=" + other + ",v1=" + good}, true},
		"the right one first":         {[]string{"t=" + stamp + ",v1=" + good + ",v1=" + other}, true},
		"both live secrets":           {[]string{"t=" + stamp + ",v1=" + good + ",v1=" + mac("old", stamp, body)}, true},
		"several wrong ones":          {[]string{"t=" + stamp + ",v1=" + other + ",v1=" + other}, false},
		"a later scheme beside":       {[]string{"t=" + stamp + ",v2=x,v1=" + good}, true},
		"a later scheme alone":        {[]string{"t=" + stamp + ",v2=" + good}, false},
		"upper case and spaces":       {[]string{"v1=" + strings.ToUpper(good) + ", t=" + stamp}, true},
		"another time than signed":    {[]string{"t=1700000001,v1=" + good}, false},
		"the same time, spelt anew":   {[]string{"t=0" + stamp + ",v1=" + good}, false},
		"two times":                   {[]string{"t=" + stamp + ",t=" + stamp + ",v1=" + good}, false},
		"no time":                     {[]string{"v1=" + good}, false},
		"no signature":                {[]string{"t=" + stamp}, false},
		"half a signature":            {[]string{"t=" + stamp + ",v1=" + good[:62]}, false},
		"a signature and more":        {[]string{"t=" + stamp + ",v1=" + good + "00"}, false},
		"no hexadecimal":              {[]string{"t=" + stamp + ",v1=" + strings.Repeat("g", 64)}, false},
		"a negative time":             {[]string{"t=-1,v1=" + mac("new", "-1", body)}, false},
		"an enormous time":            {[]string{"t=9223372036854775807,v1=" + mac("new", "9223372036854775807", body)}, false},
		"too many":                    {[]string{"t=" + stamp + strings.Repeat(",v1="+good, maxSignatures+1)}, false},
		"as many as may be":           {[]string{"t=" + stamp + strings.Repeat(",v1="+other, maxSignatures-1) + ",v1=" + good}, true},
		"the field twice":             {[]string{at(0)[0], at(0)[0]}, false},
		"no field":                    {nil, false},
		"an empty field":              {[]string{""}, false},
		"as old as may be":            {at(-5 * time.Minute), true},
		"too old":                     {at(-5*time.Minute - time.Second), false},
		"as early as may be":          {at(5 * time.Minute), true},
		"too early":                   {at(5*time.Minute + time.Second), false},
		"the beginning of the epoch":  {[]string{"t=0,v1=" + mac("new", "0", body)}, false},
		"the end of what can be read": {[]string{"t=1099511627775,v1=" + mac("new", "1099511627775", body)}, false},
	} {
		var h fasthttp.RequestHeader
		for _, f := range x.fields {
			h.Add(signatureHeader, f)
		}
		if got := p.genuine(&h, []byte(body), now); got != x.want {
			t.Errorf("%s: %v", name, got)
		}
		if x.want && p.genuine(&h, []byte(body+" "), now) {
			t.Errorf("%s: it counts for another body", name)
		}
	}
}

// FuzzSignature holds the parser to what it says: whatever it takes means the same when
// it is written out again, and a field is never taken for a signature of nothing.
func FuzzSignature(f *testing.F) {
	sum := strings.Repeat("0f", sha256.Size)
	for _, s := range []string{
		"t=1700000000,v1=" + sum, "v1=" + sum + ", t=1", "t=1,v1=" + sum + ",v1=" + strings.ToUpper(sum), "t=1,v0=x,v1=" + sum,
		"", ",", "=", "t=", "t=,v1=", "t=1", "v1=" + sum, "t=1,t=1,v1=" + sum, "t=-1,v1=" + sum, "t=+1,v1=" + sum, "t=0x1,v1=" + sum,
		"t=99999999999999999999,v1=" + sum, "t=1,v1=" + sum[:63] + "g", "t=1,v1=" + sum + "=", "t=1;v1=" + sum, "T=1,V1=" + sum, "t=1,v1=\"" + sum + "\"", "t=1_0,v1=" + sum,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, field string) {
		s, err := parseSignature(field)
		if err != nil {
			return
		}
		if len(s.sums) < 1 || len(s.sums) > maxSignatures || s.stamp == "" {
			t.Fatalf("%q gave %+v", field, s)
		}
		if n, err := strconv.ParseInt(s.stamp, 10, 64); err != nil || n != s.at || n < 0 || strings.Trim(s.stamp, "0123456789") != "" {
			t.Fatalf("%q gave the time %q %d", field, s.stamp, s.at)
		}
		again := "t=" + s.stamp
		for _, sum := range s.sums {
			again += fmt.Sprintf(",v1=%x", sum)
		}
		if r, err := parseSignature(again); err != nil || r.stamp != s.stamp || len(r.sums) != len(s.sums) || r.sums[0] != s.sums[0] {
			t.Fatalf("%q is not %q: %+v %v", field, again, r, err)
		}
	})
}
