package audit

import (
	"fmt"
	"io"
	"strconv"

	"flashgate/sale"
)

// Report is what an audit found.
type Report struct {
	At int64 // Unix ms, ledger's clock, when it began
	// Since is where it began, zero with everything; the next one may begin at Position,
	// which is Since as long as something is wrong.
	Since, Position sale.AuditPosition
	Checks          []Check
	// Orders, Events and SKUs are how much was compared: orders in the ledger, events on
	// the results stream and outbox, copies in the shield.
	Orders, Events int64
	SKUs           int
}

// Check is one invariant and what was found against it.
type Check struct {
	sale.Checked
	// warning says that what is found breaks no promise: it is about the shield, which
	// may be wrong at any time and is never believed.
	warning bool
	// notMade says why the check could not be made, else it is empty.
	notMade string
}

// OK reports whether the check was made and found nothing.
func (c *Check) OK() bool { return len(c.Findings) == 0 && c.notMade == "" }

// OK reports whether no promise is broken, as far as all that had to be looked at was.
func (r *Report) OK() bool {
	broken, notMade, _ := r.count()
	return broken+notMade == 0
}

// count counts the checks that found something broken, those that were not made, and
// those that found something to warn of.
func (r *Report) count() (broken, notMade, warnings int) {
	for i := range r.Checks {
		c := &r.Checks[i]
		switch {
		case c.OK():
		case c.warning:
			warnings++
		case c.notMade != "":
			notMade++
		default:
			broken++
		}
	}
	return broken, notMade, warnings
}

// Warned reports whether there is something to warn of.
func (r *Report) Warned() bool {
	_, _, warnings := r.count()
	return warnings > 0
}

// WriteText writes a line for each finding, its check first and then what it is about,
// and a last line that sums up.
func (r *Report) WriteText(w io.Writer) error {
	for i := range r.Checks {
		c := &r.Checks[i]
		prefix := c.Check + ": "
		if c.warning {
			prefix = "warning: " + prefix
		}
		for _, f := range c.Findings {
			if _, err := fmt.Fprintf(w, "%s%s%s\n", prefix, about(&f), f.Detail); err != nil {
				return err
			}
		}
		if c.More {
			if _, err := fmt.Fprintf(w, "%sand more\n", prefix); err != nil {
				return err
			}
		}
		if c.notMade != "" {
			if _, err := fmt.Fprintf(w, "%snot checked: %s\n", prefix, c.notMade); err != nil {
				return err
			}
		}
	}
	broken, notMade, warnings := r.count()
	verdict := "ok"
	if !r.OK() {
		verdict = "NOT OK"
	}
	if r.Position != (sale.AuditPosition{}) {
		if _, err := fmt.Fprintf(w, "position: %s\n", r.Position); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%s: %d checks, %d broken, %d not made, %d with warnings; %d orders, %d events, %d SKUs in the shield\n",
		verdict, len(r.Checks), broken, notMade, warnings, r.Orders, r.Events, r.SKUs)
	return err
}

func about(f *sale.Finding) string {
	var s string
	if f.SKU != "" {
		s = "sku " + f.SKU
	}
	if f.OrderID != (sale.OrderID{}) {
		if s != "" {
			s += ", "
		}
		s += "order " + f.OrderID.String()
	}
	if s == "" {
		return ""
	}
	return s + ": "
}

// AppendJSON appends the report as a JSON object.
func (r *Report) AppendJSON(b []byte) []byte {
	b = append(b, `{"ok":`...)
	b = strconv.AppendBool(b, r.OK())
	b = append(b, `,"at":"`...)
	b = sale.AppendTime(b, r.At)
	if r.Since != (sale.AuditPosition{}) {
		b = fmt.Appendf(b, `","since":"%s`, r.Since)
	}
	if r.Position != (sale.AuditPosition{}) {
		b = fmt.Appendf(b, `","position":"%s`, r.Position)
	}
	b = append(b, `","orders":`...)
	b = strconv.AppendInt(b, r.Orders, 10)
	b = append(b, `,"events":`...)
	b = strconv.AppendInt(b, r.Events, 10)
	b = append(b, `,"skus_in_shield":`...)
	b = strconv.AppendInt(b, int64(r.SKUs), 10)
	b = append(b, `,"checks":[`...)
	for i := range r.Checks {
		if i > 0 {
			b = append(b, ',')
		}
		b = r.Checks[i].appendJSON(b)
	}
	return append(b, "]}"...)
}

func (c *Check) appendJSON(b []byte) []byte {
	level := "error"
	if c.warning {
		level = "warning"
	}
	b = append(b, `{"name":`...)
	b = sale.AppendString(b, c.Check)
	b = append(b, `,"promise":`...)
	b = sale.AppendString(b, c.Promise)
	b = append(b, `,"level":"`...)
	b = append(b, level...)
	b = append(b, `","ok":`...)
	b = strconv.AppendBool(b, c.OK())
	if c.notMade != "" {
		b = append(b, `,"not_made":`...)
		b = sale.AppendString(b, c.notMade)
	}
	if c.More {
		b = append(b, `,"more":true`...)
	}
	b = append(b, `,"findings":[`...)
	for i := range c.Findings {
		f := &c.Findings[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"detail":`...)
		b = sale.AppendString(b, f.Detail)
		if f.SKU != "" {
			b = append(b, `,"sku":`...)
			b = sale.AppendString(b, f.SKU)
		}
		if f.OrderID != (sale.OrderID{}) {
			b = append(b, `,"order_id":"`...)
			b = f.OrderID.AppendTo(b)
			b = append(b, '"')
		}
		b = append(b, '}')
	}
	return append(b, "]}"...)
}
