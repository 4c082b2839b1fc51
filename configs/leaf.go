package configs

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// What a leaf's secret tag may say.
const (
	secretValue = "yes" // never shown, may come from a file
	secretURL   = "url" // an address or URL, or several: shown without credentials in it
)

const redacted = "[redacted]"

// leaf is one key and the place of its value in a Config.
type leaf struct {
	key    string
	secret string
	value  reflect.Value
}

// set takes a value as YAML gives it (string, bool, int, float, list, nil) or as the
// environment does (always a string).
func (f leaf) set(in any) error {
	if in == nil {
		return fmt.Errorf("has no value; leave the key out for the default")
	}
	switch f.value.Interface().(type) {
	case time.Duration:
		return f.setDuration(in)
	case string:
		s, ok := in.(string)
		if !ok {
			return fmt.Errorf("must be a text; put it in quotes")
		}
		return f.setText(s)
	case []string:
		return f.setList(in)
	case bool:
		b, err := strconv.ParseBool(fmt.Sprint(in))
		if err != nil {
			return fmt.Errorf("must be true or false, not %s", quote(in))
		}
		f.value.SetBool(b)
		return nil
	case int:
		return f.setInt(in)
	case float64:
		n, err := number(in)
		if err != nil {
			return err
		}
		f.value.SetFloat(n)
		return nil
	}
	return fmt.Errorf("has a type that no loader knows: %s", f.value.Type())
}

func (f leaf) setText(s string) error {
	if !printable(s) {
		return fmt.Errorf("holds characters that are not text")
	}
	f.value.SetString(s)
	return nil
}

// printable admits line ends, which PEM keys have.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return r != '\n' && r != '\r' && r != '\t' && !unicode.IsPrint(r)
	})
}

func (f leaf) setDuration(in any) error {
	s, ok := in.(string)
	if in == 0 {
		s, ok = "0", true
	}
	d, err := time.ParseDuration(strings.TrimSpace(s))
	if !ok || err != nil {
		return fmt.Errorf("must be a duration such as 500ms, 5s or 15m, not %s", quote(in))
	}
	f.value.SetInt(int64(d))
	return nil
}

func (f leaf) setInt(in any) error {
	n, err := number(in)
	if err != nil {
		return err
	}
	if n != math.Trunc(n) || math.Abs(n) > 1<<53 {
		return fmt.Errorf("must be a whole number, not %s", quote(in))
	}
	f.value.SetInt(int64(n))
	return nil
}

func (f leaf) setList(in any) error {
	var items []string
	switch list := in.(type) {
	case string:
		items = strings.Split(list, ",")
	case []any:
		for _, item := range list {
			s, ok := item.(string)
			if !ok {
				return fmt.Errorf("must be a list of texts; put them in quotes")
			}
			items = append(items, s)
		}
	default:
		return fmt.Errorf("must be a list")
	}
	kept := []string{}
	for _, s := range items {
		if !printable(s) {
			return fmt.Errorf("holds characters that are not text")
		}
		if s = strings.TrimSpace(s); s != "" {
			kept = append(kept, s)
		}
	}
	f.value.Set(reflect.ValueOf(kept))
	return nil
}

// setFromFile sets a secret from the file named by in. One line end at the end of the
// file is the editor's, not the secret's. A list has one secret per line.
func (f leaf) setFromFile(in any) error {
	path, ok := in.(string)
	if !ok || path == "" {
		return fmt.Errorf("must be the path of a file")
	}
	text, err := readFile(path)
	if err != nil {
		return err
	}
	text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
	if text == "" {
		return fmt.Errorf("%s is empty", path)
	}
	if f.value.Kind() == reflect.Slice {
		text = strings.ReplaceAll(text, "\n", ",")
	}
	return f.set(text)
}

// plain is the value as YAML should show it.
func (f leaf) plain(redact bool) any {
	if redact && f.secret != "" && !f.value.IsZero() {
		if f.secret == secretURL {
			if f.value.Kind() == reflect.Slice {
				list := f.value.Interface().([]string)
				return redactURLs(list)
			}
			return strings.Join(redactURLs(strings.Split(f.value.String(), ",")), ",")
		}
		if f.value.Kind() == reflect.Slice {
			hidden := make([]string, f.value.Len())
			for i := range hidden {
				hidden[i] = redacted
			}
			return hidden
		}
		return redacted
	}
	switch v := f.value.Interface().(type) {
	case time.Duration:
		return v.String()
	case []string:
		if v == nil {
			return []string{}
		}
	}
	return f.value.Interface()
}

func number(in any) (float64, error) {
	var n float64
	var err error
	switch v := in.(type) {
	case int:
		n = float64(v)
	case int64:
		n = float64(v)
	case uint64:
		n = float64(v)
	case float64:
		n = v
	case string:
		n, err = strconv.ParseFloat(strings.TrimSpace(v), 64)
	default:
		err = strconv.ErrSyntax
	}
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
		return 0, fmt.Errorf("must be a number, not %s", quote(in))
	}
	return n, nil
}

// quote shows a wrong value in one short line.
func quote(in any) string {
	s := fmt.Sprint(in)
	if len(s) > 40 {
		s = s[:40] + "..."
	}
	return strconv.Quote(s)
}
