package client

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ringside-cache/ringside/proto/memcached"
)

var (
	// ErrDial is returned when no connection to the node could be made:
	// refused, unreachable, unresolvable, credentials that it does not take, or
	// not a server that we can talk to. What it wraps may be another of these.
	ErrDial = errors.New("can not connect")
	// ErrConnLost is returned when the connection broke while the request was
	// under way. Whether it was carried out is not known; see SafeToRetry.
	ErrConnLost = errors.New("connection lost")
	// ErrDesynchronised is returned when the node sent what is no reply to
	// what was asked, or refused a store in a way behind which its stream can not be
	// trusted. The connection is closed, its other requests fail with the same
	// error, and no caller gets a value that is not its own.
	ErrDesynchronised = memcached.ErrDesynchronised
	// ErrOverloaded is returned at once when a node has MaxInFlight requests
	// or MaxInFlightBytes bytes waiting for it.
	ErrOverloaded = errors.New("too much in flight to the node")
	// ErrNodeDown is returned at once when the key's owner is ejected and
	// Config.Failover is FailoverNone.
	ErrNodeDown = errors.New("the node is ejected")
	// ErrTooLarge is returned before anything is sent when the item is larger
	// than the node takes, and when the node itself says so.
	ErrTooLarge = errors.New("the item is larger than the node takes")
	// ErrClientError is returned when the node refuses a request, as with an
	// increment of something that is not a number.
	ErrClientError = errors.New("refused by the node")
	// ErrNoMeta is returned for a meta request that a node without meta commands
	// (memcached before 1.6.10, yrmcds, a proxy) has no classic commands for.
	ErrNoMeta = errors.New("the node has no meta commands")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("the client is closed")
	// ErrTimeout is returned when Config.Timeout passed without an answer to the
	// request, or to an older one on its connection, which is closed then. It is
	// context.DeadlineExceeded to errors.Is too.
	ErrTimeout error = timeoutError{}
)

type timeoutError struct{}

func (timeoutError) Error() string {
	return "no answer within Config.Timeout, to this request or one before it"
}
func (timeoutError) Timeout() bool        { return true }
func (timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// errUnsent marks a failure before the first byte of the request was written.
var errUnsent = errors.New("nothing was sent")

// OpError is a failure of one operation. It never prints the key, since keys
// carry user ids.
type OpError struct {
	// Op is the operation, "get" or "set" for example.
	Op string
	// Node is the name of the node that was asked or would have been, empty where
	// none is known.
	Node string
	// Key is the key, empty for an operation without one.
	Key string
	// Err is the cause.
	Err error
}

func (e *OpError) Error() string {
	if e.Node == "" {
		return fmt.Sprintf("ringside: %s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("ringside: %s on %s: %v", e.Op, e.Node, e.Err)
}

func (e *OpError) Unwrap() error { return e.Err }

// MultiError lists what failed of an operation on many keys; what succeeded
// was returned beside it. A key that is not there is no failure.
type MultiError struct {
	// Errors has an *OpError for each failed key, in the order asked.
	Errors []*OpError
	// Total is the number of operations in the batch.
	Total int
}

func (e *MultiError) Error() string {
	byNode := make(map[string]int)
	var order []string
	for _, op := range e.Errors {
		if byNode[op.Node] == 0 {
			order = append(order, op.Node)
		}
		byNode[op.Node]++
	}
	var b strings.Builder
	fmt.Fprintf(&b, "ringside: %d of %d operations failed", len(e.Errors), e.Total)
	for _, node := range order {
		for _, op := range e.Errors {
			if op.Node == node {
				fmt.Fprintf(&b, "; %d on %s: %v", byNode[node], node, op.Err)
				break
			}
		}
	}
	return b.String()
}

// Unwrap gives every failure to errors.Is and errors.As.
func (e *MultiError) Unwrap() []error {
	errs := make([]error, len(e.Errors))
	for i, op := range e.Errors {
		errs[i] = op
	}
	return errs
}

// SafeToRetry tells whether the operation that returned err was certainly not
// carried out: nothing was sent, or the node refused it. It is false for ErrClosed,
// which may come in the middle, and for ErrServerError and ErrTooLarge, as
// memcached may have removed what was there. For a *MultiError it tells whether
// that is so for all of the failed operations, and only those may be tried again.
func SafeToRetry(err error) bool {
	var multi *MultiError
	if errors.As(err, &multi) {
		for _, e := range multi.Errors {
			if !SafeToRetry(e) {
				return false
			}
		}
		return true
	}
	for _, safe := range []error{errUnsent, ErrDial, ErrOverloaded, ErrNodeDown, ErrNoMeta, ErrClientError, ErrMalformedKey, ErrNoServers} {
		if errors.Is(err, safe) {
			return true
		}
	}
	return false
}
