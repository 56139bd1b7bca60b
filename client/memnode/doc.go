// Package memnode is a memcached node inside the process. The sidecar embeds it
// where no servers are configured, and tests start it in place of a server: with
// a clock that the test moves, and with faults on demand.
//
//	node, err := memnode.Start(memnode.Config{})
//	defer node.Close()
//	c, err := client.New(client.Config{Servers: []string{node.Addr()}})
//	...
//	node.Inject(memnode.HangUp(), memnode.On(memcached.MetaSet))
//
// It speaks the classic text protocol and the meta protocol, leases included,
// and answers what memcached 1.6.18 answers, oddities included: testdata holds
// transcripts that a real server wrote, and the tests play them, and random
// requests, to both. Memory is bounded by Config.MaxBytes. It never writes to a
// disk, and it knows no TLS, no authentication, no binary protocol and no UDP:
// it belongs on loopback or on a unix socket.
//
// A Node is safe for concurrent use, and Close ends all of its goroutines.
//
// # What differs from memcached 1.6.18
//
//   - After a storage line that is wrong memcached reads the value as the next
//     command. A node passes over it, or closes the connection behind the error
//     where it does not know how long it is.
//   - Keys with control bytes, superfluous words and signs before numbers are
//     refused, and gat wants a key.
//   - A line may have 64 KiB. A longer one is answered before the connection is
//     closed. "Too large" is answered before the value has come.
//   - Pipelining changes nothing. In memcached a number that is on its way out
//     is not counted up in place, which shows in blanks behind it and in marks
//     that go, and a get with too long a key takes earlier replies with it.
//   - Eviction is otter's W-TinyLFU and not LRU: a full node may let go of a new
//     item and not of an old one that is popular. Expired items stay in memory
//     until they are asked for or evicted.
//   - What flush_all has removed does not come back when another one follows.
//   - The age that l shows follows use within a minute, without a thread.
//   - The reports of stats on slabs and the like are empty, verbosity changes
//     nothing, and the commands of administrators (slabs, lru, lru_crawler,
//     watch, cache_memlimit, shutdown, extstore) are answered ERROR.
package memnode
