package memcached_test

import (
	"fmt"
	"log"

	"github.com/ringside-cache/ringside/proto/memcached"
)

// A client appends requests to its buffer, a server parses what has come.
func ExampleAppendRequest() {
	wire, err := memcached.AppendRequest(nil, &memcached.Request{
		Command: memcached.MetaSet, Key: []byte("user:42"), Value: []byte("Ada"),
		Meta: []memcached.MetaFlag{{Letter: 'T', Arg: []byte("300")}},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%q\n", wire)

	var req memcached.Request
	const maxValue = 1 << 20
	size, err := memcached.ParseRequest(wire[:10], &req, maxValue)
	fmt.Println("of 10 bytes more are needed:", size > 10, err)
	size, err = memcached.ParseRequest(wire, &req, maxValue)
	fmt.Printf("%v %s %q, %d bytes, %v\n", req.Command, req.Key, req.Value, size, err)
	// Output:
	// "ms user:42 3 T300\r\nAda\r\n"
	// of 10 bytes more are needed: true <nil>
	// ms user:42 "Ada", 24 bytes, <nil>
}

// A server appends replies, a client parses them in the order of its requests.
func ExampleParseReply() {
	wire := memcached.AppendReply(nil, &memcached.Reply{Kind: memcached.MetaMiss})
	wire = memcached.AppendReply(wire, &memcached.Reply{
		Kind: memcached.MetaValue, Value: []byte("Ada"), Meta: []memcached.MetaFlag{{Letter: 'f', Arg: []byte("7")}},
	})
	var rep memcached.Reply
	for len(wire) > 0 {
		size, err := memcached.ParseReply(wire, &rep)
		if err != nil {
			log.Fatal(err)
		}
		if size > len(wire) {
			break // here a client would read on
		}
		flags, _ := rep.Flag('f')
		fmt.Printf("%v %q flags %q\n", rep.Kind, rep.Value, flags.Arg)
		wire = wire[size:]
	}
	// Output:
	// EN "" flags ""
	// VA "Ada" flags "7"
}
