package client

import (
	"encoding/base64"
	"fmt"
	"math"
	"strings"

	"github.com/ringside-cache/ringside/proto/memcached"
)

// This file has how a reply is read into its op, and what proves that it is its own.

// take reads a complete reply into the op. more says that further replies
// belong to the same op. An error means that the stream is out of step.
// silentMiss allows a miss without an opaque.
func (o *op) take(rep *memcached.Reply, silentMiss bool) (more bool, err error) {
	if rep.Kind.IsError() {
		return false, o.takeError(rep)
	}
	if o.fenced != nil {
		if rep.Kind != memcached.MetaNoopEnd {
			return false, o.unexpected(rep)
		}
		o.err = o.fenced
		return false, nil
	}
	switch o.kind {
	case opNoop:
		if rep.Kind != memcached.MetaNoopEnd {
			return false, o.unexpected(rep)
		}
		return false, nil
	case opVersion:
		if rep.Kind != memcached.VersionIs {
			return false, o.unexpected(rep)
		}
		o.text = []string{string(rep.Message)}
		return false, nil
	case opFlushAll:
		if rep.Kind != memcached.OK {
			return false, o.unexpected(rep)
		}
		return false, nil
	case opStats:
		switch rep.Kind {
		case memcached.Stat:
			o.text = append(o.text, string(rep.Key), string(rep.Value))
			return true, nil
		case memcached.End, memcached.Reset:
			return false, nil
		}
		return false, o.unexpected(rep)
	}
	if rep.Kind > memcached.MetaInfo || rep.Kind == memcached.MetaNoopEnd {
		return false, o.unexpected(rep)
	}
	if err := o.checkOpaque(rep, silentMiss); err != nil {
		return false, err
	}
	if err := o.opaque.checkSwallowed(rep.Value); err != nil {
		return false, err
	}
	if o.kind == opMeta {
		o.takeMeta(rep)
		return false, nil
	}
	o.reply = rep.Kind
	for _, f := range rep.Meta {
		switch f.Letter {
		case 'f':
			n, err := f.Uint()
			if err != nil || n > math.MaxUint32 {
				return false, o.unexpected(rep)
			}
			o.gotFlags = uint32(n)
		case 'c':
			if o.gotCAS, err = f.Uint(); err != nil {
				return false, o.unexpected(rep)
			}
		case 't': // -1 is for ever
			left, err := f.Int()
			if err != nil {
				return false, o.unexpected(rep)
			}
			o.left = left
		case 'W':
			o.lease |= leaseWon
		case 'X':
			o.lease |= leaseStale
		case 'Z':
			o.lease |= leaseTaken
		}
	}
	if rep.Kind == memcached.MetaValue {
		if _, ok := parseEnvelope(seen{value: rep.Value, flags: o.gotFlags}); ok {
			o.lease |= leaseEnvelope
		}
		return false, o.takeValue(rep)
	}
	return false, nil
}

// toItem gives what a read found as an Item.
func (o *op) toItem(key string, n *node, generation uint64) *Item {
	item := o.item
	if item == nil {
		item = &Item{Value: o.got}
		o.item = item
	}
	item.Key, item.Flags, item.CasID = key, o.gotFlags, o.gotCAS
	item.node, item.generation = n, generation
	return item
}

// takeError reads an error line: an answer to this op alone, or the sign that
// the stream is out of step.
func (o *op) takeError(rep *memcached.Reply) error {
	err, inStep := o.errorFrom(rep)
	if o.kind == opMeta && rep.Kind == memcached.ClientError {
		// What a caller's own flags may get wrong. No value follows these
		// commands but ms, and behind ms 1.6.18 passes over the value except
		// after the two lines that check rules out and this tests for.
		message := string(rep.Message)
		inStep = o.metaCmd != memcached.MetaSet || message != "bad data chunk" && message != "options flags too long"
	}
	if !inStep {
		return err
	}
	if o.kind == opMeta {
		o.takeMeta(rep)
	} else {
		o.err = err
	}
	return nil
}

// errorFrom is the error for an error line, and tells whether the stream is
// still in step behind it. Only lines that are known to be complete answers to
// this request are. After others memcached may read a value as the next
// command, or the line is another request's: it has no opaque to tell.
func (o *op) errorFrom(rep *memcached.Reply) (err error, inStep bool) {
	message := string(rep.Message)
	switch rep.Kind {
	case memcached.Error:
		if o.kind == opStats { // the argument was not known
			return fmt.Errorf("%w: %v %s", ErrClientError, rep.Kind, message), true
		}
	case memcached.ClientError:
		if o.kind == opStats {
			return fmt.Errorf("%w: %v %s", ErrClientError, rep.Kind, message), true
		}
		switch message {
		case "cannot increment or decrement non-numeric value", "invalid numeric delta argument":
			inStep = o.kind == opArithmetic
		case "invalid exptime argument":
			inStep = o.kind == opSet || o.kind == opTouch || o.kind == opGetAndTouch || o.kind == opFlushAll
		}
		if inStep {
			return fmt.Errorf("%w: %s", ErrClientError, message), true
		}
	case memcached.ServerError:
		if o.kind == opNoop {
			break
		}
		if !strings.HasPrefix(message, "object too large") {
			return fmt.Errorf("%w: %s", ErrServerError, message), true
		}
		if o.kind == opSet || o.kind == opMeta {
			return fmt.Errorf("%w: %w: %s", ErrTooLarge, ErrServerError, message), true
		}
	}
	return desynchronised("%v %s in answer to %s", rep.Kind, message, o.name()), false
}

func (o *op) takeValue(rep *memcached.Reply) (err error) {
	switch {
	case o.kind == opArithmetic:
		if o.number, err = (memcached.MetaFlag{Arg: rep.Value}).Uint(); err != nil {
			return o.unexpected(rep)
		}
	case o.kind != opGet && o.kind != opGetAndTouch && o.kind != opLeased:
		return o.unexpected(rep)
	case o.into:
		o.buf = append(o.buf[:0], rep.Value...)
		o.got = o.buf
	case o.got == nil:
		o.item = newItem(len(rep.Value))
		o.got = o.item.Value
		copy(o.got, rep.Value)
	}
	return nil
}

func (o *op) unexpected(rep *memcached.Reply) error {
	return desynchronised("%v in answer to %s", rep.Kind, o.name())
}

// checkOpaque proves that the reply is this op's. Memcached before 1.6.18
// sends no opaque when mg misses, and none ever when me does, which tells the
// key where it hits; any other reply must have it.
func (o *op) checkOpaque(rep *memcached.Reply, silentMiss bool) error {
	f, ok := rep.Flag('O')
	if !ok {
		debug := o.kind == opMeta && o.metaCmd == memcached.MetaDebug
		if rep.Kind == memcached.MetaMiss && (debug || silentMiss && o.reads()) {
			return nil
		}
		// The key of an item that was stored under one in base64 is shown so.
		if rep.Kind == memcached.MetaInfo && debug &&
			(string(rep.Key) == o.key || string(rep.Key) == base64.StdEncoding.EncodeToString([]byte(o.key))) {
			return nil
		}
		return desynchronised("%v without the opaque that was asked for", rep.Kind)
	}
	if !o.opaque.is(f.Arg) {
		return desynchronised("%v with another request's opaque", rep.Kind)
	}
	return nil
}

// reads tells whether the op is an mg.
func (o *op) reads() bool {
	switch o.kind {
	case opGet, opGetAndTouch, opTouch, opLeased:
		return true
	case opMeta:
		return o.metaCmd == memcached.MetaGet
	}
	return false
}

// takeMeta copies the reply, with the caller's own opaque in place of ours.
func (o *op) takeMeta(rep *memcached.Reply) {
	c := &memcached.Reply{Kind: rep.Kind, Key: clone(rep.Key), Message: clone(rep.Message)}
	if o.got != nil { // a large value was read to where it stays
		c.Value = o.got
	} else if rep.Kind == memcached.MetaValue {
		c.Value = append(make([]byte, 0, len(rep.Value)), rep.Value...)
	}
	for _, f := range rep.Meta {
		switch {
		case f.Letter != 'O':
			c.Meta = append(c.Meta, memcached.MetaFlag{Letter: f.Letter, Arg: clone(f.Arg)})
		case o.opaqueBack != nil:
			c.Meta = append(c.Meta, memcached.MetaFlag{Letter: 'O', Arg: o.opaqueBack})
		}
	}
	o.raw = c
}

func clone(b []byte) []byte { return append([]byte(nil), b...) }
