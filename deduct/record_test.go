package deduct

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"flashgate/sale"
)

const recordClock = "1700000000123"

func TestRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 20).Draw(t, "claims")
		var cs []*sale.Claim
		var said strings.Builder
		var want []taken
		for range n {
			c := claimGen().Draw(t, "claim")
			cs = append(cs, c)
			a := rapid.SampledFrom([]byte("1234")).Draw(t, "answer")
			said.WriteByte(a)
			if a == '1' {
				want = append(want, taken{c.ID, c.User, c.Quantity})
			}
		}
		rec, err := decodeRecord(recordClock + string(appendBatch(nil, cs)) + said.String())
		if err != nil {
			t.Fatal(err)
		}
		if rec.at != 1700000000123 || len(rec.claims) != len(want) {
			t.Fatalf("%+v, want %+v", rec, want)
		}
		for i := range want {
			if rec.claims[i] != want[i] {
				t.Fatalf("%+v, want %+v", rec.claims[i], want[i])
			}
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add("")
	f.Add(recordClock)
	f.Add(recordClock + string(appendBatch(nil, claims(3, 0))) + "142")
	f.Add(recordClock + string(appendBatch(nil, []*sale.Claim{claim("a", "b", 700)})) + "1")
	f.Add(recordClock + "\x00\xff\xff")
	f.Add("170000000012x" + string(appendBatch(nil, claims(1, 0))) + "1")
	f.Fuzz(func(t *testing.T, rec string) {
		got, err := decodeRecord(rec)
		if err != nil {
			return
		}
		// What can be read is what was written: no byte is left over or read twice.
		var said int
		for i := len(rec) - 1; i >= 0 && said < len(got.claims); i-- {
			if rec[i] == '1' {
				said++
			}
		}
		if said < len(got.claims) || got.at < 0 {
			t.Fatalf("%d claims out of %q", len(got.claims), rec)
		}
		for _, c := range got.claims {
			if !strings.Contains(rec, string(c.id[:])) || !strings.Contains(rec, c.user) || c.quantity < 0 {
				t.Fatalf("claim %+v is not in %q", c, rec)
			}
		}
	})
}

func FuzzParseGeneration(f *testing.F) {
	sku := testSKU(3, 2)
	f.Add(newGeneration(&sku, 1_700_000_000_000).name)
	f.Add("1-2-3-4-00000000")
	f.Add("-1-2-3-4-00000000")
	f.Add("1-2-3-99-00000000")
	f.Fuzz(func(t *testing.T, name string) {
		g, ok := parseGeneration(name)
		if ok && (g.name != name || g.segments < 1 || g.segments > sale.MaxSegments || g.limit < 0 || g.version < 0 || g.began < 0) {
			t.Fatalf("%+v", g)
		}
	})
}

func FuzzParseFamilyKey(f *testing.F) {
	tag := familyTag("shoe", 3)
	for _, k := range []string{pointerKey(tag), loadKey(tag), hashKey(tag, "g"), batchesKey(tag, "g"), "fg:{a:b}:gen", "fg:{a:1", "fg:v:x"} {
		f.Add(k)
	}
	f.Fuzz(func(t *testing.T, key string) {
		k, ok := parseFamilyKey(key)
		if !ok {
			return
		}
		if sale.ValidateSKUName(k.sku) != nil || k.segment < 0 || k.tag != familyTag(k.sku, k.segment) {
			t.Fatalf("%q gives %+v", key, k)
		}
	})
}

func TestGenerationNamesRoundTrip(t *testing.T) {
	sku := testSKU(3, 2)
	g := newGeneration(&sku, 17)
	if got, ok := parseGeneration(g.name); !ok || got != g {
		t.Fatalf("%+v, want %+v", got, g)
	}
	if h := newGeneration(&sku, 17); h.name == g.name {
		t.Fatal("two loads with one name")
	}
}
