package sale

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// Operator says on whose behalf something is changed, and why. It travels in the context, to
// the transaction that enters it into the operators' log.
type Operator struct {
	Name string // "" is nobody in particular
	Why  string
}

type operatorKey struct{}

// WithOperator returns a context of what this operator asks for.
func WithOperator(ctx context.Context, o Operator) context.Context {
	return context.WithValue(ctx, operatorKey{}, o)
}

// OperatorOf returns on whose behalf the context's work is.
func OperatorOf(ctx context.Context) Operator {
	o, _ := ctx.Value(operatorKey{}).(Operator)
	return o
}

// ValidateOperatorName refuses names that do not fit into logs and configuration.
func ValidateOperatorName(s string) error {
	if s == "" || len(s) > maxSKULen || strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.@-") != "" {
		return fmt.Errorf("an operator's name must be 1..%d letters, digits and _ . @ -", maxSKULen)
	}
	return nil
}

// KeyScope is what an operator's key may be used for.
type KeyScope uint8

// The scopes, stored and shown as their names.
const (
	KeyReads    KeyScope = iota + 1 // it looks
	KeyOperates                     // it looks, and changes
)

var keyScopeNames = [...]string{KeyReads: "read", KeyOperates: "operate"}

// String is its name, as it is stored and shown.
func (s KeyScope) String() string { return nameOf(keyScopeNames[:], int(s)) }

// ParseKeyScope reads a scope's name.
func ParseKeyScope(s string) (KeyScope, error) {
	n, err := parseName(keyScopeNames[:], s, "scope")
	return KeyScope(n), err
}

// LogEntry is one change by an operator.
type LogEntry struct {
	ID     int64  // rises with time
	At     int64  // Unix ms, ledger's clock
	By     string // operator's name
	Action string // such as sku.put, stock.add, breaker.set
	Target string // a SKU's name, or a breaker's
	// Before and After are JSON objects of what changed, "" for what was not there.
	Before, After string
	Why           string
}

// LogOf makes the entry's Before and After of the fields in which two values of a struct
// differ; nil is what was not there.
func LogOf[T any](before, after *T) (b, a string) {
	was, is := make(map[string]any), make(map[string]any)
	for i := range reflect.TypeFor[T]().NumField() {
		name := reflect.TypeFor[T]().Field(i).Tag.Get("json")
		get := func(v *T) any {
			if v == nil {
				return nil
			}
			return reflect.ValueOf(v).Elem().Field(i).Interface()
		}
		if x, y := get(before), get(after); x != y {
			was[name], is[name] = x, y
		}
	}
	text := func(v *T, m map[string]any) string {
		if v == nil {
			return ""
		}
		b, _ := json.Marshal(m) // of texts and numbers: never fails
		return string(b)
	}
	return text(before, was), text(after, is)
}

// SKURecord is a SKU and its stock as the operators' log shows them.
type SKURecord struct {
	Title        string `json:"title"`
	UnitPrice    int64  `json:"unit_price"`
	Currency     string `json:"currency"`
	PerUserLimit int64  `json:"per_user_limit"`
	OpensAt      string `json:"opens_at"`
	ClosesAt     string `json:"closes_at"`
	PayWithin    int64  `json:"pay_within_ms"`
	State        string `json:"state"`
	Heat         string `json:"heat"`
	Archive      string `json:"archive"`
	Segments     int    `json:"segments"`
	Total        int64  `json:"total"`
	Reserved     int64  `json:"reserved"`
}

// RecordOf is how the log shows them.
func RecordOf(s *SKU, stock Stock) SKURecord {
	at := func(ms int64) string {
		if ms == 0 {
			return ""
		}
		return FormatTime(ms)
	}
	return SKURecord{
		Title: s.Title, UnitPrice: s.UnitPrice, Currency: s.Currency, PerUserLimit: s.PerUserLimit, OpensAt: at(s.OpensAt), ClosesAt: at(s.ClosesAt),
		PayWithin: s.PayWithin, State: s.State.String(), Heat: s.Heat.String(), Archive: s.Archive.String(), Segments: s.Segments, Total: stock.Total, Reserved: stock.Reserved,
	}
}
