package results

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"flashgate/sale"

	"github.com/nats-io/nats.go"
)

// parkedVersion is the version of the message's form. A drainer leaves what a newer
// gateway wrote to a drainer that knows the form.
const parkedVersion = 1

// unitsHeader says how many units the shield took for the claim, so that they can be
// summed up without reading the claims.
const unitsHeader = "Flashgate-Units"

// parkedMessage is a parked claim as it stands in the stream.
type parkedMessage struct {
	Version  int    `json:"v"`
	OrderID  string `json:"order_id"`
	SKU      string `json:"sku"`
	UserID   string `json:"user_id"`
	Quantity int64  `json:"quantity"`
	Coupon   string `json:"coupon,omitempty"`
	Hash     string `json:"request_hash"`
	Keyed    bool   `json:"keyed,omitempty"`
	QueuedAt int64  `json:"queued_at"`
	Took     bool   `json:"took,omitempty"`
	Segment  int    `json:"segment,omitempty"`
	ParkedAt int64  `json:"parked_at"`
}

// encodeParked is the message's payload.
func encodeParked(p *sale.Parked) ([]byte, error) {
	c := &p.Claim
	return json.Marshal(&parkedMessage{
		Version: parkedVersion, OrderID: c.ID.String(), SKU: c.SKU, UserID: c.User, Quantity: c.Quantity, Coupon: c.Coupon,
		Hash: hex.EncodeToString(c.Hash[:]), Keyed: c.Keyed, QueuedAt: c.QueuedAt,
		Took: p.Took, Segment: p.Segment, ParkedAt: p.ParkedAt,
	})
}

// errNewer says that a message is of a form that a newer gateway wrote: it is no rubbish,
// and for that one to decide.
var errNewer = errors.New("a newer version of flashgate parked it")

// decodeParked reads what encodeParked wrote. It refuses what encodeParked cannot have
// written of a valid claim, since what it accepts is offered to the ledger.
func decodeParked(payload []byte) (sale.Parked, error) {
	p, err := decodeKnown(payload)
	if err == nil {
		return p, nil
	}
	var form struct {
		Version int `json:"v"`
	}
	if json.Unmarshal(payload, &form) == nil && form.Version > parkedVersion {
		err = fmt.Errorf("%w: its version is %d, and this one reads %d", errNewer, form.Version, parkedVersion)
	}
	return sale.Parked{}, fmt.Errorf("decode a parked claim: %w", err)
}

// decodeKnown reads a message of this version.
func decodeKnown(payload []byte) (sale.Parked, error) {
	var m parkedMessage
	d := json.NewDecoder(bytes.NewReader(payload))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return sale.Parked{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return sale.Parked{}, errors.New("something follows it")
	}
	return m.parked()
}

func (m *parkedMessage) parked() (sale.Parked, error) {
	p := sale.Parked{
		Claim: sale.Claim{
			SKU: m.SKU, User: m.UserID, Coupon: m.Coupon, Quantity: m.Quantity, Keyed: m.Keyed, QueuedAt: m.QueuedAt,
		},
		Took: m.Took, Segment: m.Segment, ParkedAt: m.ParkedAt,
	}
	c := &p.Claim
	var err error
	if c.ID, err = sale.ParseOrderID(m.OrderID); err != nil {
		return p, err
	}
	hash, err := hex.DecodeString(m.Hash)
	if err != nil || len(hash) != len(c.Hash) {
		return p, fmt.Errorf("request_hash %q is not %d hexadecimal bytes", m.Hash, len(c.Hash))
	}
	c.Hash = sale.RequestHash(hash)
	return p, errors.Join(m.check(), validateParked(&p))
}

func (m *parkedMessage) check() error {
	if m.Version != parkedVersion {
		return fmt.Errorf("version is %d, want %d", m.Version, parkedVersion)
	}
	return nil
}

// validateParked holds a parked claim against the limits of the domain.
func validateParked(p *sale.Parked) error {
	c := &p.Claim
	if err := sale.ValidateClaim(c.SKU, c.User, c.Coupon, c.Quantity); err != nil {
		return err
	}
	switch {
	case !c.ID.Of(c.SKU):
		return errors.New("its id is not that of an order of its SKU")
	case p.Segment < 0 || p.Segment >= sale.MaxSegments:
		return fmt.Errorf("segment must be 0..%d", sale.MaxSegments-1)
	case c.QueuedAt < 0 || c.QueuedAt > lastTime || p.ParkedAt < 0 || p.ParkedAt > lastTime:
		return errors.New("a time lies outside the years 1970 to 9999")
	}
	return nil
}

// parkedMsg is a parked claim on its way to the stream. A repeat of it within one call
// of Park has the same message id and is dropped by the stream; the same claim parked
// by another call has another: it may have been drained and refused in between.
func (n *names) parkedMsg(p *sale.Parked, call string, at int) (*nats.Msg, error) {
	if err := validateParked(p); err != nil {
		return nil, fmt.Errorf("%w: %w", sale.ErrInvalid, err)
	}
	payload, err := encodeParked(p)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", sale.ErrInvalid, err)
	}
	var units int64
	if p.Took {
		units = p.Claim.Quantity
	}
	return &nats.Msg{
		Subject: n.parked(p.Claim.SKU),
		Header: nats.Header{
			nats.MsgIdHdr: []string{p.Claim.ID.String() + "." + call + "." + strconv.Itoa(at)},
			unitsHeader:   []string{strconv.FormatInt(units, 10)},
		},
		Data: payload,
	}, nil
}

// parkedUnits reads the units from a message's header alone.
func parkedUnits(h nats.Header) int64 {
	n, err := strconv.ParseInt(h.Get(unitsHeader), 10, 64)
	if err != nil || n < 0 || n > sale.MaxQuantity {
		return 0
	}
	return n
}
