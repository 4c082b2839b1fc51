package deduct

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"flashgate/sale"
)

// A batch travels to the shield as one packed string, which the shield keeps, with a
// time before it and the answers behind it, for as long as the batch is tentative:
//
//	flags      1 byte: 1 = quantities follow, 0 = every claim asks for one unit
//	n          2 bytes, high byte first
//	ids        16 bytes each
//	quantities 2 bytes each, high byte first
//	users      each a byte of length and the text
//
// Lua reads ids and quantities at their offsets and never touches the users: writing a
// batch down costs Redis one HSET of one field, whatever its size.
const (
	recordTime = 13 // digits of a Unix time in ms
	recordHead = 3
)

// maxBatch is the most claims of one call: Lua can unpack about 8,000 values, and
// a claim needs up to four.
const maxBatch = 1000

func appendBatch(b []byte, claims []*sale.Claim) []byte {
	flags := byte(0)
	for _, c := range claims {
		if c.Quantity != 1 {
			flags = 1
			break
		}
	}
	b = append(b, flags)
	b = binary.BigEndian.AppendUint16(b, uint16(len(claims)))
	for _, c := range claims {
		b = append(b, c.ID[:]...)
	}
	if flags == 1 {
		for _, c := range claims {
			b = binary.BigEndian.AppendUint16(b, uint16(c.Quantity))
		}
	}
	for _, c := range claims {
		b = append(b, byte(len(c.User)))
		b = append(b, c.User...)
	}
	return b
}

// tentative is what a tentative batch's record says: the claims that took units.
type tentative struct {
	at     int64 // Redis's time, Unix ms
	claims []taken
}

type taken struct {
	id       sale.OrderID
	user     string
	quantity int64
}

var errRecord = errors.New("deduct: record of a tentative batch is damaged")

// decodeRecord reads a tentative batch's record.
func decodeRecord(rec string) (tentative, error) {
	if len(rec) < recordTime+recordHead {
		return tentative{}, fmt.Errorf("%w: %d bytes", errRecord, len(rec))
	}
	at, err := strconv.ParseUint(rec[:recordTime], 10, 63)
	if err != nil {
		return tentative{}, fmt.Errorf("%w: time", errRecord)
	}
	flags, n := rec[recordTime], int(rec[recordTime+1])<<8|int(rec[recordTime+2])
	ids := rec[recordTime+recordHead:]
	if flags > 1 || n > maxBatch || len(ids) < 16*n {
		return tentative{}, fmt.Errorf("%w: head", errRecord)
	}
	quantities := ids[16*n:]
	users := quantities
	if flags == 1 {
		if len(quantities) < 2*n {
			return tentative{}, fmt.Errorf("%w: quantities", errRecord)
		}
		users = quantities[2*n:]
	}
	all := make([]taken, n)
	for i := range all {
		t := &all[i]
		copy(t.id[:], ids[16*i:])
		t.quantity = 1
		if flags == 1 {
			t.quantity = int64(quantities[2*i])<<8 | int64(quantities[2*i+1])
		}
		if len(users) < 1 || len(users) < 1+int(users[0]) {
			return tentative{}, fmt.Errorf("%w: users", errRecord)
		}
		t.user, users = users[1:1+int(users[0])], users[1+int(users[0]):]
	}
	answers := users
	if len(answers) != n {
		return tentative{}, fmt.Errorf("%w: %d answers for %d claims", errRecord, len(answers), n)
	}
	out := tentative{at: int64(at), claims: all[:0]}
	for i := range all {
		switch a := sale.Answer(answers[i] - '0'); a {
		case sale.Admitted:
			out.claims = append(out.claims, all[i])
		case sale.Seen, sale.ShieldLimit, sale.ShieldSoldOut:
		default:
			return tentative{}, fmt.Errorf("%w: answer %q", errRecord, answers[i])
		}
	}
	return out, nil
}
