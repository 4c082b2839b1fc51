package gateway

import (
	"errors"
	"net/http"

	"flashgate/sale"
)

// answer names one way in which a request can end. Every response of either listener
// is one of these: the table below is the only place where outcomes and errors become
// a status and a code, and the metrics count by it.
type answer uint8

const (
	answerOK answer = iota
	answerCreated
	answerReserved
	answerReplayed
	answerQueued
	answerNothing

	malformed
	unauthenticated
	forbidden
	notFound
	unknownSKU
	unknownOrder
	methodNotAllowed
	requestTimeout
	soldOut
	purchaseLimit
	saleNotOpen
	salePaused
	saleClosed
	alreadyPaid
	orderExpired
	orderQueued
	stockBelowSold
	preconditionFailed
	contentTooLarge
	unsupportedMediaType
	invalidRequest
	keyReused
	rateLimited
	misdirected
	headersTooLarge
	internalError
	queueFull
	degraded
	timedOut
	unavailable
	shuttingDown

	answerCount
)

// entry is one row of the table.
type entry struct {
	status int
	code   string
	title  string
	detail string // what a buyer or operator can do about it
	retry  int    // seconds of Retry-After where nothing better is known; 0 = none
}

var answers = [answerCount]entry{
	answerOK:       {status: http.StatusOK, code: "ok"},
	answerCreated:  {status: http.StatusCreated, code: "created"},
	answerReserved: {status: http.StatusCreated, code: "reserved"},
	answerReplayed: {status: http.StatusOK, code: "replayed"},
	answerQueued:   {status: http.StatusAccepted, code: "queued", retry: 1},
	answerNothing:  {status: http.StatusNoContent, code: "nothing"},

	malformed:            {http.StatusBadRequest, "malformed", "Malformed request", "The request could not be read; correct it before sending it again.", 0},
	unauthenticated:      {http.StatusUnauthorized, "unauthenticated", "Not authenticated", "The request carries no valid credentials.", 0},
	forbidden:            {http.StatusForbidden, "forbidden", "Not allowed", "These credentials do not allow this request.", 0},
	notFound:             {http.StatusNotFound, "not_found", "No such resource", "Nothing lives at this path.", 0},
	unknownSKU:           {http.StatusNotFound, "unknown_sku", "No such SKU", "There is no SKU of this name.", 0},
	unknownOrder:         {http.StatusNotFound, "unknown_order", "No such order", "No order of yours is known by this id. If it was queued, repeat the POST with the same Idempotency-Key: the answer is the one true answer.", 0},
	methodNotAllowed:     {http.StatusMethodNotAllowed, "method_not_allowed", "Method not allowed", "This path does not answer this method; see the Allow header.", 0},
	requestTimeout:       {http.StatusRequestTimeout, "request_timeout", "Request not received in time", "The request did not arrive completely in time.", 0},
	soldOut:              {http.StatusConflict, "sold_out", "Sold out", "There are fewer units left than asked for. Units can come back when orders are not paid for.", 0},
	purchaseLimit:        {http.StatusConflict, "purchase_limit", "Purchase limit reached", "This order would take you past the number of units that one buyer may hold.", 0},
	saleNotOpen:          {http.StatusConflict, "sale_not_open", "Sale not open yet", "The sale has not opened yet.", 0},
	salePaused:           {http.StatusConflict, "sale_paused", "Sale paused", "The sale is paused and may go on later.", 0},
	saleClosed:           {http.StatusConflict, "sale_closed", "Sale closed", "The sale has ended.", 0},
	alreadyPaid:          {http.StatusConflict, "already_paid", "Order already paid", "The order has been paid for.", 0},
	orderExpired:         {http.StatusConflict, "order_expired", "Order expired", "The order was not paid for in time, and its units were given back.", 0},
	orderQueued:          {http.StatusConflict, "order_queued", "Order still queued", "The order has no verdict yet.", 0},
	stockBelowSold:       {http.StatusConflict, "stock_below_sold", "Stock would fall below what is sold", "The change would leave fewer units than are bound to live orders or withheld; max_reduction is the largest possible reduction.", 0},
	preconditionFailed:   {http.StatusPreconditionFailed, "precondition_failed", "Not as expected", "The SKU is not, or no longer, as If-Match or If-None-Match says. Read it again.", 0},
	contentTooLarge:      {http.StatusRequestEntityTooLarge, "content_too_large", "Content too large", "The body is larger than this service accepts.", 0},
	unsupportedMediaType: {http.StatusUnsupportedMediaType, "unsupported_media_type", "Unsupported media type", "Send the body as application/json in UTF-8, without a content coding.", 0},
	invalidRequest:       {http.StatusUnprocessableEntity, "invalid_request", "Invalid request", "The request was read but asks for something that cannot be.", 0},
	keyReused:            {http.StatusUnprocessableEntity, "idempotency_key_reused", "Idempotency key reused", "This Idempotency-Key was used before, with another quantity, coupon or number of units.", 0},
	rateLimited:          {http.StatusTooManyRequests, "rate_limited", "Too many requests", "Slow down; the RateLimit header names the limit.", 1},
	misdirected:          {http.StatusMisdirectedRequest, "misdirected", "Not for this machine", "This gateway serves its own machine only: ask it as localhost, or by its address.", 0},
	headersTooLarge:      {http.StatusRequestHeaderFieldsTooLarge, "headers_too_large", "Header fields too large", "The header fields are larger than this service accepts.", 0},
	internalError:        {http.StatusInternalServerError, "internal", "Internal error", "Something failed here that should not. Repeat the request with the same Idempotency-Key.", 0},
	queueFull:            {http.StatusServiceUnavailable, "queue_full", "Queue full", "More buyers wait than can be served in time. Nothing was ordered; repeat with the same Idempotency-Key.", 1},
	degraded:             {http.StatusServiceUnavailable, "degraded", "Running at reduced speed", "A part of the service is away and the rest is busy. Nothing was ordered; repeat with the same Idempotency-Key.", 2},
	timedOut:             {http.StatusServiceUnavailable, "timeout", "No verdict in time", "The order waited too long and was not placed; repeat with the same Idempotency-Key.", 1},
	unavailable:          {http.StatusServiceUnavailable, "unavailable", "Temporarily unavailable", "There is no verdict on this request for now. Repeat it with the same Idempotency-Key to learn its one true answer.", 2},
	shuttingDown:         {http.StatusServiceUnavailable, "shutting_down", "Shutting down", "This gateway is going away; repeat with the same Idempotency-Key and another one answers.", 1},
}

// outcomeAnswers maps the closed set of verdicts.
var outcomeAnswers = [...]answer{
	sale.NoOutcome:    unavailable,
	sale.Reserved:     answerReserved,
	sale.Duplicate:    answerReplayed,
	sale.Conflict:     keyReused,
	sale.NotOpen:      saleNotOpen,
	sale.Paused:       salePaused,
	sale.Closed:       saleClosed,
	sale.LimitReached: purchaseLimit,
	sale.SoldOut:      soldOut,
	sale.TimedOut:     timedOut,
	sale.Queued:       answerQueued,
}

// ofOutcome is the answer to a verdict without an error.
func ofOutcome(o sale.Outcome) answer {
	if int(o) < len(outcomeAnswers) {
		return outcomeAnswers[o]
	}
	return internalError
}

// errorAnswers maps the sentinels, most frequent first.
var errorAnswers = []struct {
	err error
	as  answer
}{
	{sale.ErrQueueFull, queueFull},
	{sale.ErrUnavailable, unavailable},
	{sale.ErrDegraded, degraded},
	{sale.ErrShuttingDown, shuttingDown},
	{sale.ErrUnknownSKU, unknownSKU},
	{sale.ErrUnknownOrder, unknownOrder},
	{sale.ErrAlreadyPaid, alreadyPaid},
	{sale.ErrOrderExpired, orderExpired},
	{sale.ErrOrderQueued, orderQueued},
	{sale.ErrInvalid, invalidRequest},
	{sale.ErrKeyReused, keyReused},
	{sale.ErrPrecondition, preconditionFailed},
	{sale.ErrArchived, saleClosed},
	{sale.ErrPaymentMismatch, invalidRequest},
}

// ofError is the answer to an infrastructure error. What is no sentinel means that a
// dependency failed in a way nobody named: nothing is known, so the client is asked to
// repeat under the same key.
func ofError(err error) answer {
	for _, e := range errorAnswers {
		if errors.Is(err, e.err) {
			return e.as
		}
	}
	var below *sale.StockBelowSoldError
	if errors.As(err, &below) {
		return stockBelowSold
	}
	return unavailable
}

// ofStatus is the answer to what the HTTP library refused by itself.
func ofStatus(status int) answer {
	for a := malformed; a < answerCount; a++ {
		if answers[a].status == status {
			return a
		}
	}
	if status >= http.StatusInternalServerError {
		return internalError
	}
	return malformed
}
