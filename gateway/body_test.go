package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"flashgate/sale"
)

// FuzzWant holds the decoder against encoding/json: the plain reader must never take
// what the strict one refuses, nor read it otherwise; and whatever is taken is what
// encoding/json alone reads in it.
func FuzzWant(f *testing.F) {
	for _, s := range []string{
		"", "{}", `{"quantity":1}`, `{"quantity":1000,"coupon":"SPRING"}`, "{ \"coupon\" :\t\"a\" , \"quantity\":\r\n2 } ",
		`{"quantity":01}`, `{"quantity":1e2}`, `{"quantity":1.0}`, `{"quantity":-0}`, `{"quantity":null}`, `{"coupon":"\u0041"}`,
		`{"quantity":1,}`, `{"quantity":1,"quantity":1}`, `{"Quantity":1}`, `{"qu\u0061ntity":3}`, `{"x":1}`, `[]`, `null`, `{"a":{"b":[1]}}`,
		"{\"coupon\":\"\x00\"}", "{}\x00", "\xef\xbb\xbf{}", `{"coupon":"` + strings.Repeat("c", 129) + `"}`, `{"quantity":1}}`, `{"quantity":1 2}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		w, err := parseWant(body)
		if len(body) > 0 {
			p := want{quantity: 1}
			if p.readPlain(body) {
				strict, strictErr := parseWantStrictly(body)
				if strictErr != nil || strict != p {
					t.Fatalf("%q: the plain reader says %+v, the strict one %+v %v", body, p, strict, strictErr)
				}
			}
		}
		if err != nil {
			return
		}
		if sale.ValidateQuantity(w.quantity) != nil || sale.ValidateCoupon(w.coupon) != nil {
			t.Fatalf("%q: %+v is not valid", body, w)
		}
		if len(body) == 0 {
			return
		}
		oracle := struct {
			Quantity int64  `json:"quantity"`
			Coupon   string `json:"coupon"`
		}{Quantity: 1}
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&oracle); err != nil {
			t.Fatalf("%q was taken, and encoding/json says %v", body, err)
		}
		if _, err := dec.Token(); !errors.Is(err, io.EOF) {
			t.Fatalf("%q was taken, and something follows it", body)
		}
		if oracle.Quantity != w.quantity || oracle.Coupon != w.coupon {
			t.Fatalf("%q: %+v, and encoding/json says %+v", body, w, oracle)
		}
	})
}

func TestPlainReaderTakesPlainBodies(t *testing.T) {
	for _, s := range []string{"{}", `{"quantity":7}`, `{"quantity": 7, "coupon": "SPRING-24"}`, "{\n  \"coupon\": \"x\"\n}\n"} {
		w := want{quantity: 1}
		if !w.readPlain([]byte(s)) {
			t.Errorf("%q took the slow way", s)
		}
	}
}

func FuzzKey(f *testing.F) {
	for _, s := range []string{"", "a", `"a"`, `"a\"b"`, `"a\\"`, `"a\"`, `"`, `""`, `a"b`, "a b", `"a";q=1`, strings.Repeat("k", 255), strings.Repeat("k", 256), "\x7f"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, field string) {
		key, err := parseKey(field)
		if err != nil {
			return
		}
		if len(key) < 1 || len(key) > maxKeyLen || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Fatalf("%q gave the key %q", field, key)
		}
		quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`
		if again, err := parseKey(quoted); err != nil || again != key {
			t.Fatalf("%q and %q are not the same key: %q %v", field, quoted, again, err)
		}
	})
}

func FuzzPrefer(f *testing.F) {
	for _, s := range []string{"respond-async", "wait=5", `respond-async, wait="5"`, `foo="a, wait=3", wait=4`, "wait=-1", "wait = 7;x=1", ",,;;=", `"`, `\`, "wait=99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, field string) {
		var p preference
		p.read(field)
		if p.wait < 0 || (p.wait != 0 && !p.waitSet) {
			t.Fatalf("%q: %+v", field, p)
		}
	})
}

func TestPrefer(t *testing.T) {
	for field, want := range map[string]preference{
		"":                               {},
		"respond-async":                  {async: true},
		"RESPOND-ASYNC":                  {async: true},
		"wait=5":                         {waitSet: true, wait: 5e9},
		"Wait = 5":                       {waitSet: true, wait: 5e9},
		`respond-async; x=y, wait="10"`:  {async: true, waitSet: true, wait: 10e9},
		`foo="a, respond-async", wait=3`: {waitSet: true, wait: 3e9},
		"wait=3, wait=4":                 {waitSet: true, wait: 3e9},
		"wait=-3":                        {},
		"wait=1.5":                       {},
		"wait":                           {},
		"return=minimal":                 {},
	} {
		var p preference
		p.read(field)
		if p != want {
			t.Errorf("%q: %+v, want %+v", field, p, want)
		}
	}
	var p preference
	p.read("respond-async")
	p.read("wait=2")
	if p != (preference{async: true, waitSet: true, wait: 2e9}) {
		t.Errorf("two fields: %+v", p)
	}
}

func FuzzForwarded(f *testing.F) {
	for _, s := range []string{"1.2.3.4", "1.2.3.4:80", "[::1]:80", "::1", "[::1]", "unknown", "", "::ffff:1.2.3.4", "fe80::1%eth0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if a, ok := forwarded(s); ok && (!a.IsValid() || a.Is4In6() || a.Zone() != "") {
			t.Fatalf("%q gave %v", s, a)
		}
	})
}
