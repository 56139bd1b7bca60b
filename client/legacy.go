package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/bradfitz/gomemcache/memcache"

	"github.com/ringside-cache/ringside/proto/memcached"
)

// These are gomemcache's own errors, so that code which tests for them, with
// == or errors.Is, works unchanged.
var (
	// ErrCacheMiss is returned when the key is not there.
	ErrCacheMiss = memcache.ErrCacheMiss
	// ErrCASConflict is returned by CompareAndSwap when the item was changed
	// since it was read, or when it now lives on another node or connection
	// than the one its CasID came from.
	ErrCASConflict = memcache.ErrCASConflict
	// ErrNotStored is returned by Add when the key is there, and by Replace,
	// Append and Prepend when it is not.
	ErrNotStored = memcache.ErrNotStored
	// ErrServerError is returned when the node answers SERVER_ERROR.
	ErrServerError = memcache.ErrServerError
	// ErrMalformedKey is returned before anything is sent for a key that is
	// empty, longer than 250 bytes or has a space or control byte in it. The
	// *memcached.KeyError in it says which.
	ErrMalformedKey = memcache.ErrMalformedKey
	// ErrNoServers is returned by New for an empty list of servers.
	ErrNoServers = memcache.ErrNoServers
)

// A legacy serves a node without meta commands through gomemcache: memcached
// before 1.6.10, yrmcds, MemcacheDB, or a proxy such as twemproxy. It has what
// the classic protocol has: no opaque, so one request at a time on each
// connection, and no leases.
type legacy struct {
	node  *node
	epoch atomic.Pointer[epoch]
	// slots has an entry for each call that is being carried out.
	slots chan struct{}

	mu   sync.Mutex // guards open and epoch.made
	open map[*watchedConn]struct{}
}

func newLegacy(n *node) *legacy {
	l := &legacy{node: n, slots: make(chan struct{}, legacyCalls), open: make(map[*watchedConn]struct{})}
	l.epoch.Store(l.newEpoch())
	return l
}

// run carries out a call on a goroutine of its own, as gomemcache knows no
// context. What the ops need of their caller's memory is copied. Each call that
// is carried out has a connection, so no more than legacyCalls are at a time;
// the rest waits, and its callers no longer than their context and Timeout. What is
// asked of a key behind a write whose caller has left waits until that is over,
// as it might overtake it.
func (l *legacy) run(ca *call) {
	ca.start = l.node.client.clock()
	for i := range ca.ops {
		o := &ca.ops[i]
		if o.kind == opMeta {
			o.err = o.fromMeta()
		}
		o.value = clone(o.value)
		o.meta = nil
	}
	before := l.node.ghosts.before(ca)
	l.node.client.spawn(func() {
		for _, over := range before {
			select {
			case <-over:
			case <-l.node.client.life.Done():
			}
		}
		select {
		case l.slots <- struct{}{}:
			defer func() { <-l.slots }()
		case <-l.node.client.life.Done():
		}
		for i := 0; i < len(ca.ops); {
			// What its caller no longer waits for must not be done late.
			if ca.state.Load() == callAbandoned || l.node.client.life.Err() != nil {
				l.node.settled(ca)
				l.giveUpLeases(ca, i)
				ca.fail(fmt.Errorf("%w: %w", errUnsent, ErrClosed))
				return
			}
			done, generation := l.step(ca.ops[i:])
			if i == 0 {
				// Should it change in the middle, what is read later is
				// believed to be older than it is, which is safe.
				ca.generation = generation
			}
			i += done
			if i == len(ca.ops) {
				l.node.settled(ca)
				l.node.took(l.node.client.clock()-ca.start, i)
			}
			ca.delivered.Store(int32(i))
		}
		if ca.finish() {
			l.giveUpLeases(ca, len(ca.ops))
		}
	})
}

// step carries out what is to be done together of a call's remaining ops, and
// tells how many those were and in which epoch. What would have needed a
// connection of an epoch that has ended begins again in the next; nothing of it
// was changed on the server.
func (l *legacy) step(ops []op) (done int, generation uint64) {
	for try := 0; ; try++ {
		e := l.epoch.Load()
		done = e.reads(ops)
		if done == 0 {
			done = e.leasedReads(ops)
		}
		if done == 0 {
			e.one(&ops[0])
			done = 1
		}
		l.leave(e)
		renewed := slices.IndexFunc(ops[:done], func(o op) bool { return errors.Is(o.err, errRenewed) })
		if renewed > 0 {
			for i := range ops[renewed:done] {
				ops[renewed+i].opResult = opResult{}
			}
			done = renewed
		}
		if renewed != 0 || try == epochTries {
			for i := range ops[:done] {
				ops[i].value = nil
			}
			return done, e.id
		}
		for i := range ops[:done] {
			ops[i].opResult = opResult{}
		}
	}
}

// wait waits for a call that run has begun; false means that ctx ended first.
func (l *legacy) wait(ctx context.Context, ca *call) bool {
	if !ca.state.CompareAndSwap(callPending, callParked) {
		return true
	}
	select {
	case <-ca.wake:
		return true
	case <-ctx.Done():
	}
	l.node.haunt(ca, false)
	if ca.state.CompareAndSwap(callParked, callAbandoned) {
		return false
	}
	<-ca.wake
	if ca.ghost {
		l.node.ghosts.rest(ca)
	}
	return true
}

// reads carries out the plain reads at the front of ops in one round trip,
// and tells how many they were; 0 where there are not at least two.
func (l *epoch) reads(ops []op) int {
	n := 0
	for n < len(ops) && ops[n].kind == opGet && ops[n].err == nil {
		n++
	}
	if n < 2 {
		return 0
	}
	keys := make([]string, n)
	for i := range keys {
		keys[i] = ops[i].key
	}
	items, err := l.mc.GetMulti(keys)
	used := make(map[*memcache.Item]bool, len(items))
	for i := range ops[:n] {
		switch item := items[keys[i]]; {
		case item != nil:
			if used[item] { // a key that is asked for twice: each owns its value
				again := *item
				again.Value = clone(item.Value)
				item = &again
			}
			used[item] = true
			ops[i].found(item)
		case err != nil:
			ops[i].err = l.failure(err)
		default:
			ops[i].reply = memcached.MetaMiss
		}
		ops[i].toMeta()
	}
	return n
}

func (o *op) found(item *memcache.Item) {
	o.reply, o.got, o.gotFlags, o.gotCAS = memcached.MetaValue, item.Value, item.Flags, item.CasID
	if o.into {
		o.buf = append(o.buf[:0], item.Value...)
		o.got = o.buf
	}
	if o.got == nil {
		o.got = []byte{}
	}
}

// one carries out one op and gives it the reply that a node with meta
// commands would have sent.
func (l *epoch) one(o *op) {
	if o.err != nil {
		return
	}
	if o.isLeased() {
		if err := l.leased(o); err != nil {
			o.err = l.failure(err)
		}
		return
	}
	defer o.toMeta()
	var item *memcache.Item
	var err error
	exptime := int32(o.ttl())
	switch o.kind {
	case opGet:
		item, err = l.mc.Get(o.key)
	case opGetAndTouch:
		// Not gat: twemproxy hangs up on it, and older servers know none.
		if item, err = l.mc.Get(o.key); err == nil {
			err = l.mc.Touch(o.key, exptime)
		}
	case opTouch:
		err = l.mc.Touch(o.key, exptime)
	case opSet:
		err = l.store(o, &memcache.Item{Key: o.key, Value: o.value, Flags: o.flags, Expiration: exptime, CasID: o.cas})
	case opDelete:
		err = l.mc.Delete(o.key)
	case opArithmetic:
		if o.mode == 'D' {
			o.number, err = l.mc.Decrement(o.key, o.delta)
		} else {
			o.number, err = l.mc.Increment(o.key, o.delta)
		}
	case opVersion, opStats, opFlushAll:
		err = l.ask(o)
	}
	if item != nil && item.Key != o.key {
		// gomemcache does not look, and would use the connection again.
		l.disconnect()
		item, err = nil, desynchronised("a value of another key")
	}
	switch {
	case err == nil && item != nil:
		o.found(item)
	case err == nil:
		o.reply = memcached.MetaOK
	case errors.Is(err, ErrCacheMiss):
		o.reply = memcached.MetaNotFound
	case errors.Is(err, ErrNotStored):
		o.reply = memcached.MetaNotStored
	case errors.Is(err, ErrCASConflict):
		o.reply = memcached.MetaExists
	default:
		o.err = l.failure(err)
	}
}

func (l *epoch) store(o *op, item *memcache.Item) error {
	switch {
	case o.hasCAS && o.generation != 0 && o.generation != l.id:
		return ErrCASConflict
	case o.hasCAS:
		return l.mc.CompareAndSwap(item)
	case o.mode == 'E':
		return l.mc.Add(item)
	case o.mode == 'R':
		return l.mc.Replace(item)
	case o.mode == 'A':
		return l.mc.Append(item)
	case o.mode == 'P':
		return l.mc.Prepend(item)
	}
	return l.mc.Set(item)
}

// ask carries out what gomemcache has no method for, on a connection of its
// own.
func (l *legacy) ask(o *op) error {
	ctx, cancel := context.WithTimeout(l.node.client.life, l.node.client.cfg.Timeout)
	defer cancel()
	nc, _, err := l.node.greet(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDial, err)
	}
	defer nc.Close()
	_, err = talk(ctx, nc, func() error {
		return ask(nc, string(o.appendTo(nil)), func(rep *memcached.Reply) (bool, error) {
			if rep.Kind.IsError() {
				return false, fmt.Errorf("%w: %v %s", ErrServerError, rep.Kind, rep.Message)
			}
			more, err := o.take(rep, false)
			return !more, err
		})
	})
	return err
}

// failure gives an error its name. What Close has interrupted is ErrClosed.
func (l *legacy) failure(err error) error {
	if l.node.client.life.Err() != nil {
		return ErrClosed
	}
	return legacyError(err)
}

// legacyError gives gomemcache's errors the names of ours.
func legacyError(err error) error {
	var connect *memcache.ConnectTimeoutError
	var network net.Error
	var op *net.OpError
	text := err.Error()
	switch {
	case strings.Contains(text, "object too large"):
		return fmt.Errorf("%w: %w: %w", ErrTooLarge, ErrServerError, err)
	case errors.Is(err, ErrNoMeta), errors.Is(err, ErrServerError), errors.Is(err, ErrDial), errors.Is(err, ErrDesynchronised),
		errors.Is(err, ErrConnLost):
		return err
	case errors.As(err, &connect), errors.Is(err, errUpgraded), errors.As(err, &op) && op.Op == "dial":
		return fmt.Errorf("%w: %w", ErrDial, err)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return ErrTimeout
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &network):
		return lost(err)
	case strings.Contains(text, "client error"), strings.Contains(text, "CLIENT_ERROR"):
		return fmt.Errorf("%w: %w", ErrClientError, err)
	case strings.Contains(text, "unexpected"), strings.Contains(text, "corrupt"):
		// The text has what was read in it, and that may be a key.
		return desynchronised("a reply that is none")
	}
	return fmt.Errorf("%w: %w", ErrServerError, err)
}
