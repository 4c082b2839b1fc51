package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"

	"flashgate/sale"
)

// OperatorKey is one key of the operators, kept as a hash.
type OperatorKey struct {
	Name  string
	Scope sale.KeyScope
	Hash  [sha256.Size]byte // SHA-256 of the key
}

// ParseOperatorKey reads name:scope:hash, the scope being read or operate, and the hash the
// SHA-256 of the key in hexadecimal.
func ParseOperatorKey(s string) (OperatorKey, error) {
	var k OperatorKey
	parts := strings.Split(s, ":")
	if len(parts) != 3 {
		return k, errors.New("an operator's key is name:scope:hash")
	}
	k.Name = parts[0]
	var err error
	if k.Scope, err = sale.ParseKeyScope(parts[1]); err == nil {
		err = sale.ValidateOperatorName(k.Name)
	}
	if err != nil {
		return k, err
	}
	if n, err := hex.Decode(k.Hash[:], []byte(parts[2])[:min(len(parts[2]), 2*len(k.Hash))]); err != nil || n != len(k.Hash) || len(parts[2]) != 2*n {
		return k, fmt.Errorf("the hash of the key of %s must be 64 hexadecimal digits: printf %%s KEY | sha256sum", k.Name)
	}
	return k, nil
}

// masterName is the operator that admin.key is.
const masterName = "admin"

// operatorKeys knows whose key is offered. A look-up by hash tells nobody who does not know
// a hash already how near an offered key is.
type operatorKeys map[[sha256.Size]byte]OperatorKey

func newOperatorKeys(master string, keys []string) (operatorKeys, error) {
	known := operatorKeys{sha256.Sum256([]byte(master)): {Name: masterName, Scope: sale.KeyOperates}}
	names := map[string]bool{masterName: true}
	for _, text := range keys {
		k, err := ParseOperatorKey(text)
		if err != nil {
			return nil, err
		}
		if _, twice := known[k.Hash]; twice || names[k.Name] {
			return nil, fmt.Errorf("the operator %s, or the key, is there twice", k.Name)
		}
		names[k.Name], known[k.Hash] = true, k
	}
	return known, nil
}

func (k operatorKeys) find(authorization string) (OperatorKey, bool) {
	token, ok := bearer(authorization)
	if !ok {
		return OperatorKey{}, false
	}
	key, ok := k[sha256.Sum256([]byte(token))]
	return key, ok
}

// Guesses at operators' keys, of one address: some are mistakes, and a key of twelve
// characters outlasts many more.
const (
	guessesPerSecond = 10
	guessesAtOnce    = 100
)

// localOperator is where a request's operator stands in its context.
const localOperator = "operator"

// operatorsOnly lets a request pass that carries an operator's key, of a scope that suffices.
// Who offers wrong ones too often is not answered any more for a while; who offers a right
// one is, from whatever address.
func (g *Gateway) operatorsOnly(method string, next fiber.Handler) fiber.Handler {
	needs := sale.KeyOperates
	if method == fiber.MethodGet {
		needs = sale.KeyReads
	}
	return func(c *fiber.Ctx) error {
		offered := c.Get(fiber.HeaderAuthorization)
		key, known := g.keys.find(offered)
		switch {
		case !known:
			g.metrics.unauthenticated.Inc()
			if offered == "" {
				return g.refuse(c, unauthenticated)
			}
			if delay, ok := g.guesses.byAddr(peer(c.Context()), c.Context().Time()); !ok {
				return g.refuseLimited(c, g.guesses.ip, delay)
			}
			return g.refuse(c, unauthenticated)
		case key.Scope < needs:
			return g.refuseWith(c, &problem{answer: forbidden, detail: "This key may look, and not change anything."})
		}
		c.Locals(localOperator, key.Name)
		return next(c)
	}
}

// maxWhy is the longest reason that an operator can give.
const maxWhy = 200

// operated is the context of what the request's operator asks for; when ok is false, the
// request has been answered.
func (g *Gateway) operated(c *fiber.Ctx) (ctx context.Context, ok bool) {
	name, _ := c.Locals(localOperator).(string)
	why, _ := header(c, "Flashgate-Reason")
	if len(why) > maxWhy || !utf8.ValidString(why) {
		_ = g.refuseWith(c, &problem{answer: malformed, detail: fmt.Sprintf("Flashgate-Reason must be UTF-8 of at most %d bytes.", maxWhy)})
		return nil, false
	}
	return sale.WithOperator(g.deadlines.context(), sale.Operator{Name: name, Why: why}), true
}

// noteChange says in the log what the operators' log says in the ledger.
func (g *Gateway) noteChange(ctx context.Context, action, target string) {
	o := sale.OperatorOf(ctx)
	g.log.Info("an operator changed something", "by", o.Name, "action", action, "target", target, "why", o.Why)
}
