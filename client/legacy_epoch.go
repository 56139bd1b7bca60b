package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
)

// An epoch is what is believed to be one life of the server: CAS ids begin
// again after a restart, and one from before could match another item by
// chance. Memcached's connections end with it, so an epoch ends when one of
// them breaks, with any failed dial, and when one is made while no other is
// known to be open. Each has a gomemcache client of its own, and so its own
// connections: what has compared its CAS id with the epoch can not go out over
// a connection of the next one, whichever gomemcache takes.
//
// What is left: a machine that dies without closing its connections looks
// alive until they are used, and behind a proxy a restart can not be seen.
type epoch struct {
	*legacy
	// id is a generation as a connection of a node with meta commands has it.
	id uint64
	mc *memcache.Client
	// made tells that there was a connection; legacy.mu guards it.
	made bool
}

const (
	// legacyCalls bounds the calls that are carried out at a time, and with them
	// the connections. Gomemcache dials for each, and MaxInFlight of them are
	// more than most servers take (memcached: 1,024 by default).
	legacyCalls = 128
	// legacyIdleConns are kept: all, or each burst would dial anew.
	legacyIdleConns = legacyCalls
	// legacyIdle is how long a connection must have been unused for its end
	// to be no failure: servers close idle connections.
	legacyIdle = time.Second
	// epochTries is how often something is begun again in the next epoch.
	epochTries = 3
)

var (
	errUpgraded = errors.New("the node has meta commands now")
	// errRenewed refuses a connection in an epoch that has ended.
	errRenewed = fmt.Errorf("%w: the node may have been restarted", ErrConnLost)
)

func (l *legacy) newEpoch() *epoch {
	e := &epoch{legacy: l, id: l.node.client.generation.Add(1)}
	e.mc = memcache.NewFromSelector(oneNode{l.node.addr})
	e.mc.Timeout = l.node.client.cfg.Timeout
	e.mc.MaxIdleConns = legacyIdleConns
	e.mc.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return e.dial(ctx) }
	return e
}

// renew ends an epoch and begins the next. What is under way in it goes on.
func (l *legacy) renew(e *epoch) {
	if l.epoch.Load() == e && l.epoch.CompareAndSwap(e, l.newEpoch()) {
		e.mc.Close()
	}
}

// leave closes what gomemcache has put back since the epoch ended or the node
// was upgraded. It is called behind every use of an epoch.
func (l *legacy) leave(e *epoch) {
	if l.epoch.Load() != e || l.node.legacy.Load() != l {
		e.mc.Close()
	}
}

// dial makes a connection for gomemcache. A server that was upgraded in the
// meantime ends the legacy.
func (e *epoch) dial(ctx context.Context) (net.Conn, error) {
	l := e.legacy
	if ended := l.node.ended(); ended != nil {
		return nil, ended
	}
	if l.epoch.Load() != e {
		return nil, errRenewed
	}
	nc, meta, err := l.node.greet(ctx)
	if err == nil && meta {
		nc.Close()
		if l.node.legacy.CompareAndSwap(l, nil) {
			e.mc.Close()
		}
		return nil, errUpgraded
	}
	if err != nil {
		l.renew(e)
		l.node.client.nodeFailed(l.node, fmt.Errorf("%w: %w", ErrDial, err))
		return nil, err
	}
	w := &watchedConn{Conn: nc, node: l.node, broken: func() { l.renew(e) }}
	w.raw.init(nc)
	w.closed = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.open, w)
	}
	l.mu.Lock()
	same := !e.made || l.seenOpen(e)
	e.made = true
	w.epoch = e
	l.open[w] = struct{}{}
	l.mu.Unlock()
	if !same {
		l.renew(e)
	}
	// Behind its entry into open, so that a disconnect has closed it or is seen.
	if ended := l.node.ended(); ended != nil {
		w.Close()
		return nil, ended
	}
	if l.epoch.Load() != e {
		w.Close()
		return nil, errRenewed
	}
	return w, nil
}

// seenOpen tells whether a connection of the epoch is open and none has come
// to its end: then the server that has just been connected to is the one that
// they were made to. l.mu is held.
func (l *legacy) seenOpen(e *epoch) (open bool) {
	for w := range l.open {
		if w.epoch != e {
			continue
		}
		ended, quiet := w.raw.state()
		if ended {
			return false
		}
		open = open || quiet // behind bytes its end would be hidden
	}
	return open
}

// disconnect closes every connection, those in use too.
func (l *legacy) disconnect() {
	l.renew(l.epoch.Load())
	l.mu.Lock()
	open := slices.Collect(maps.Keys(l.open))
	l.mu.Unlock()
	for _, w := range open {
		w.Close()
	}
}

// A seen is an item as a legacy found it.
type seen struct {
	value []byte
	flags uint32
	cas   uint64
}

// see reads an item with its CAS id.
func (l *epoch) see(key string) (seen, error) {
	item, err := l.mc.Get(key)
	if err != nil {
		return seen{}, err
	}
	if item.Key != key {
		l.disconnect()
		return seen{}, desynchronised("a value of another key")
	}
	return seen{item.Value, item.Flags, item.CasID}, nil
}

// seeAll reads many items; what is not there is not in it.
func (l *epoch) seeAll(keys []string) (map[string]seen, error) {
	items, err := l.mc.GetMulti(keys)
	found := make(map[string]seen, len(items))
	for key, item := range items {
		found[key] = seen{item.Value, item.Flags, item.CasID}
	}
	return found, err
}

// replaceSeen stores a value in place of what was seen.
func (l *epoch) replaceSeen(key string, s seen, value []byte, flags uint32, exptime int64) error {
	return l.mc.CompareAndSwap(&memcache.Item{Key: key, Value: value, Flags: flags, Expiration: int32(exptime), CasID: s.cas})
}

func (l *epoch) add(key string, value []byte, flags uint32, exptime int64) error {
	return l.mc.Add(&memcache.Item{Key: key, Value: value, Flags: flags, Expiration: int32(exptime)})
}

func (l *epoch) set(key string, value []byte, flags uint32, exptime int64) error {
	return l.mc.Set(&memcache.Item{Key: key, Value: value, Flags: flags, Expiration: int32(exptime)})
}

// A watchedConn tells the node's health what happens to a connection that
// gomemcache uses.
type watchedConn struct {
	net.Conn
	node   *node
	epoch  *epoch // nil for a Selector's
	raw    rawSocket
	broken func()
	closed func()
	used   atomic.Int64 // on the client's clock
	failed atomic.Bool
}

func (w *watchedConn) Close() error {
	w.closed()
	return w.Conn.Close()
}

func (w *watchedConn) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	w.saw(err)
	if err == nil {
		w.node.answered()
	}
	w.node.bytesIn.Add(uint64(n))
	return n, err
}

func (w *watchedConn) Write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	w.saw(err)
	w.node.bytesOut.Add(uint64(n))
	w.node.writes.Add(1)
	return n, err
}

func (w *watchedConn) saw(err error) {
	now := w.node.client.clock()
	if err == nil {
		w.used.Store(int64(now))
		return
	}
	if errors.Is(err, net.ErrClosed) || w.failed.Swap(true) {
		return
	}
	w.broken()
	if errors.Is(err, io.EOF) && now-time.Duration(w.used.Load()) > legacyIdle {
		return
	}
	w.node.connsLost.Add(1)
	w.node.client.nodeFailed(w.node, lost(err))
}
