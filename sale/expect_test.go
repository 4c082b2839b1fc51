package sale

import (
	"errors"
	"testing"
)

func TestSKUTag(t *testing.T) {
	for text, want := range map[string]SKUTag{
		"7":       {Version: 7, Rules: true},
		"7-100-3": {Version: 7, Total: 100, Reserved: 3},
		"0-0-0":   {},
	} {
		got, ok := ParseSKUTag(text)
		if !ok || got != want || got.String() != text {
			t.Errorf("%s: %+v, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "-1", "07", "7-1", "7-1-2-3", "7-01-2", "x", "7--2", "+7", "9223372036854775808"} {
		if got, ok := ParseSKUTag(text); ok {
			t.Errorf("%q is %+v", text, got)
		}
	}
}

func TestExpect(t *testing.T) {
	sku, stock := SKU{Name: "shoe", Version: 7}, Stock{Total: 100, Reserved: 3, Sold: 9}
	tag := func(text string) SKUTag {
		got, ok := ParseSKUTag(text)
		if !ok {
			t.Fatal(text)
		}
		return got
	}
	for name, c := range map[string]struct {
		expect          Expect
		there, notThere bool
	}{
		"nothing":            {Expect{}, true, true},
		"absent":             {Expect{Absent: true}, false, true},
		"present":            {Expect{Present: true}, true, false},
		"as it is":           {Expect{Tags: []SKUTag{tag("7-100-3")}}, true, false},
		"its version":        {Expect{Tags: []SKUTag{tag("7")}}, true, false},
		"one of several":     {Expect{Tags: []SKUTag{tag("6"), tag("7-100-3")}}, true, false},
		"another version":    {Expect{Tags: []SKUTag{tag("6-100-3"), tag("8")}}, false, false},
		"another total":      {Expect{Tags: []SKUTag{tag("7-101-3")}}, false, false},
		"another reserve":    {Expect{Tags: []SKUTag{tag("7-100-0")}}, false, false},
		"no SKU has this":    {Expect{Tags: []SKUTag{{Version: -1}}}, false, false},
		"what was not there": {Expect{Tags: []SKUTag{tag("0")}}, false, false},
	} {
		if err := c.expect.Check(sku, stock); (err == nil) != c.there || err != nil && !errors.Is(err, ErrPrecondition) {
			t.Errorf("%s, of a SKU: %v", name, err)
		}
		if err := c.expect.Check(SKU{Name: "shoe"}, Stock{}); (err == nil) != c.notThere {
			t.Errorf("%s, of none: %v", name, err)
		}
	}
}
