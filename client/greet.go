package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/ringside-cache/ringside/proto/memcached"
)

// This file has what is said to a server before and beside its callers: who it
// is, what it takes, and whether it is well.

// dialSocket connects, with TLS and authentication where they are configured.
func (n *node) dialSocket(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	var nc net.Conn
	var err error
	cfg := &n.client.cfg
	if path, ok := strings.CutPrefix(n.Address, "unix:"); ok {
		nc, err = d.DialContext(ctx, "unix", path)
	} else if cfg.TLS != nil {
		nc, err = (&tls.Dialer{NetDialer: &d, Config: cfg.TLS}).DialContext(ctx, "tcp", n.Address)
	} else {
		nc, err = d.DialContext(ctx, "tcp", n.Address)
	}
	if err != nil || cfg.Username == "" {
		return nc, err
	}
	return talk(ctx, nc, func() error { return authenticate(nc, cfg.Username+" "+cfg.Password) })
}

// talk asks questions over a connection until ctx ends, and closes it when
// they have an error.
func talk(ctx context.Context, nc net.Conn, questions func() error) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	err := questions()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return nc, nil
}

// authenticate sends the credentials as memcached wants them: as the value of
// the first set on a connection, whose key does not matter.
func authenticate(nc net.Conn, credentials string) error {
	line := fmt.Sprintf("set auth 0 0 %d\r\n%s\r\n", len(credentials), credentials)
	return ask(nc, line, func(rep *memcached.Reply) (bool, error) {
		if rep.Kind != memcached.Stored {
			return false, fmt.Errorf("authentication: the node answered %v %s", rep.Kind, rep.Message)
		}
		return true, nil
	})
}

// greet connects and finds out whether the server has the meta commands. It
// asks for the version, since older servers silently ignore what they do not
// know, and then for the item size limit. Twemproxy passes version on to some
// server behind it and closes the connection on stats; what still answers a
// get after that is a proxy. But a connection may be lost in the middle of a
// handshake as well, and what is taken for a proxy is spoken to without
// opaques. So a proxy has to hang up each time, and one that answered once is
// none for a while.
func (n *node) greet(ctx context.Context) (nc net.Conn, meta bool, err error) {
	const hangUps, credit = 3, 5
	for range hangUps {
		nc, err = n.converse(ctx, func(nc net.Conn) error {
			version, err := askVersion(nc)
			if err != nil {
				return err
			}
			n.version.Store(&version)
			if meta = hasMeta(version); !meta {
				return nil
			}
			return n.askLimits(nc)
		})
		if err == nil && meta {
			n.metaCredit.Store(credit)
		}
		if !errors.Is(err, io.EOF) {
			return nc, meta, err
		}
		if n.metaCredit.Load() > 0 {
			n.metaCredit.Add(-1)
			return nil, false, err
		}
	}
	nc, err = n.converse(ctx, func(nc net.Conn) error {
		return ask(nc, "get "+n.client.probeKey+"\r\n", func(rep *memcached.Reply) (bool, error) {
			if rep.Kind != memcached.Value && rep.Kind != memcached.End {
				return false, fmt.Errorf("%v in answer to get", rep.Kind)
			}
			return rep.Kind == memcached.End, nil
		})
	})
	return nc, false, err
}

// converse connects and asks; after an error the connection is closed.
func (n *node) converse(ctx context.Context, questions func(net.Conn) error) (net.Conn, error) {
	nc, err := n.dialSocket(ctx)
	if err != nil {
		return nil, err
	}
	return talk(ctx, nc, func() error { return questions(nc) })
}

// askVersion gives the version, empty where the server does not tell it.
func askVersion(nc net.Conn) (version string, err error) {
	err = ask(nc, "version\r\n", func(rep *memcached.Reply) (bool, error) {
		switch {
		case rep.Kind == memcached.VersionIs:
			version = string(rep.Message)
		case rep.Kind == memcached.ClientError && string(rep.Message) == "unauthenticated":
			return false, errors.New("the node wants authentication, see Config.Username")
		case rep.Kind == memcached.Error && string(rep.Message) == "Too many open connections":
			return false, errors.New("the node has too many open connections")
		case !rep.Kind.IsError():
			return false, fmt.Errorf("no memcached: %v in answer to version", rep.Kind)
		}
		return true, nil
	})
	return version, err
}

// askLimits asks for the item size limit.
func (n *node) askLimits(nc net.Conn) error {
	return ask(nc, "stats settings\r\n", func(rep *memcached.Reply) (bool, error) {
		switch rep.Kind {
		case memcached.Stat:
			if string(rep.Key) == "item_size_max" {
				if limit, err := strconv.ParseInt(string(rep.Value), 10, 64); err == nil {
					n.itemMax.Store(limit)
				}
			}
			return false, nil
		case memcached.End:
			return true, nil
		}
		return false, fmt.Errorf("%v in answer to stats settings", rep.Kind)
	})
}

// ask sends a line and reads replies until done says so.
func ask(nc net.Conn, line string, done func(*memcached.Reply) (bool, error)) error {
	if _, err := io.WriteString(nc, line); err != nil {
		return err
	}
	var rep memcached.Reply
	buf := make([]byte, 0, 8<<10)
	for {
		for len(buf) > 0 {
			size, err := memcached.ParseReply(buf, &rep)
			if err != nil {
				return err
			}
			if size > len(buf) {
				break
			}
			finished, err := done(&rep)
			if err != nil || finished {
				return err
			}
			buf = buf[size:]
		}
		buf = append(make([]byte, 0, len(buf)+8<<10), buf...)
		got, err := nc.Read(buf[len(buf):cap(buf)])
		if err != nil {
			return err
		}
		buf = buf[:len(buf)+got]
	}
}

// hasMeta tells whether a server of this version has the meta commands. Before
// 1.6.10 they were an experiment: ms took the size as a flag, and OK stood for
// HD.
func hasMeta(version string) bool { return atLeast(version, 1, 6, 10) }

// missesInSilence tells whether a server of this version leaves the opaque out
// when mg finds nothing.
func missesInSilence(version string) bool { return !atLeast(version, 1, 6, 18) }

// atLeast tells whether a version such as 1.6.18 or 1.6.9_12_gabcdef is want or
// a later one.
func atLeast(version string, want ...int) bool {
	for _, least := range want {
		var word string
		word, version, _ = strings.Cut(version, ".")
		if end := strings.IndexFunc(word, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
			word = word[:end]
		}
		if n, err := strconv.Atoi(word); err != nil || n != least {
			return err == nil && n > least
		}
	}
	return true
}

// probe tests the node out of band: on a connection of its own it writes a
// reserved key and reads it back. A node that answers version but can not
// store is not well.
func (n *node) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, n.client.cfg.DialTimeout)
	defer cancel()
	nc, meta, err := n.greet(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	value := strconv.FormatUint(rand.Uint64(), 36)
	key := n.client.probeKey
	set, get := fmt.Sprintf("ms %s %d T10\r\n%s\r\n", key, len(value), value), "mg "+key+" v\r\n"
	if !meta {
		set, get = fmt.Sprintf("set %s 0 10 %d\r\n%s\r\n", key, len(value), value), "get "+key+"\r\n"
	}
	_, err = talk(ctx, nc, func() error {
		if err := ask(nc, set, func(rep *memcached.Reply) (bool, error) {
			if rep.Kind != memcached.MetaOK && rep.Kind != memcached.Stored {
				return false, fmt.Errorf("the probe's set was answered %v %s", rep.Kind, rep.Message)
			}
			return true, nil
		}); err != nil {
			return err
		}
		return ask(nc, get, func(rep *memcached.Reply) (bool, error) {
			if rep.Kind != memcached.MetaValue && rep.Kind != memcached.Value || !bytes.Equal(rep.Value, []byte(value)) {
				return false, errors.New("the probe's get did not give back what was set")
			}
			return true, nil
		})
	})
	return err
}
