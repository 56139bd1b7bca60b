package sidecar

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/proto/memcached"
)

// ownPrefix begins the keys that the memcached listener answers itself: no
// request for one goes to a node. There is
//
//	get __ringside__.explain(KEY)
//
// whose value says where KEY goes, a line each. As a key has 250 bytes KEY has
// at most 228; /api/explain has no such limit. Other keys with the prefix are
// misses, and nothing can be written to one.
const ownPrefix = "__ringside__."

const ownRefusal = "CLIENT_ERROR keys that begin with " + ownPrefix + " can not be written"

func isOwnKey(key []byte) bool {
	return len(key) > 0 && key[0] == '_' && bytes.HasPrefix(key, []byte(ownPrefix))
}

// ownValue is the value of such a key.
func (m *memcachedServer) ownValue(key []byte) (value []byte, ok bool) {
	arg, ok := strings.CutPrefix(string(key[len(ownPrefix):]), "explain(")
	if !ok {
		return nil, false
	}
	arg, ok = strings.CutSuffix(arg, ")")
	if !ok {
		return nil, false
	}
	e, err := m.s.client.Explain(arg)
	if err != nil {
		if op := (*client.OpError)(nil); errors.As(err, &op) {
			err = op.Err
		}
		return fmt.Appendf(nil, "error: %s\n", publicError(err)), true
	}
	b := fmt.Appendf(nil, "key: %s\ndialect: %s\nkey hash: %s\nhash: %d (0x%08x)\nowner: %s\nowner state: %s\n",
		e.Key, e.Dialect, e.KeyHash, e.Hash, e.Hash, e.Owner, e.OwnerState)
	asked := e.Asked
	if asked == "" {
		asked = "none"
	}
	return fmt.Appendf(b, "asked now: %s\nstand-ins: %s\n", asked, strings.Join(e.StandIns, ", ")), true
}

// answerOwn answers mg for such a key, with the flags that make sense here.
func (m *memcachedServer) answerOwn(s *step, out []byte) ([]byte, string) {
	value, ok := m.ownValue(s.own)
	rep := memcached.Reply{Kind: memcached.MetaMiss}
	result := resultMiss
	if ok {
		rep.Kind, result = memcached.MetaOK, resultHit
	}
	for _, f := range s.req.Meta {
		switch f.Letter {
		case 'v':
			if ok {
				rep.Kind, rep.Value = memcached.MetaValue, value
			}
			continue
		case 'k':
			f.Arg = s.req.Key
		case 's':
			f.Arg = strconv.AppendInt(nil, int64(len(value)), 10)
		case 'f':
			f.Arg = []byte("0")
		case 't':
			f.Arg = []byte("-1")
		case 'O', 'b':
		default:
			continue
		}
		if ok || f.Letter == 'O' || f.Letter == 'k' || f.Letter == 'b' {
			rep.Meta = append(rep.Meta, f)
		}
	}
	if _, quiet := s.req.Flag('q'); quiet && !ok {
		return out, result
	}
	return memcached.AppendReply(out, &rep), result
}
