package bench

// notes are what bounds a row that is not as we want it, by what the row says.
// They are shown only while it is below its floor, and a figure in them is that
// of the report: {{figure "what the row says"}}.
func notes() map[string]string {
	const (
		many = `The gain over gomemcache comes from sharing system calls between callers, and it is smaller the more of the
machine is left: on two cores client, server and the scheduling of goroutines share what there is. The wire
limit, which only counts bytes, is {{figure "the wire limit of Get, 64 goroutines"}} times gomemcache at 64 goroutines. In a profile of
64 goroutines (28 November 2026) 40 % of the client's CPU was in read and write, 2 % in the runtime's futex
calls, 16 % in handing out replies, of which 5 % was parsing; a write had 24 requests with it. The runtime's second
processor and the server compete for the second core: with GOMAXPROCS=1 ringside had 1.3 to 1.6 times the throughput
and 0.56 of the p99 (gomemcache 1.3 times and 0.5). More than two cores were not measured.`
		few = `With 8 callers and an idle core there is little to share, about 3 requests a write, and handing over the
reader's role costs what it saves. To wait a little before a read, so that more replies come with it, would
be paid for by the lone caller.`
		multi = `Ten nodes are ten writes and ten reads on either client, and on two cores the ten servers' own work is most
of the time; eight callers share a write between three. A raw loop that writes ten requests which were made beforehand, and counts the bytes of the
replies, has {{figure "the wire limit of GetMulti, 1 goroutine"}} times gomemcache's throughput at one caller and {{figure "the wire limit of GetMulti, 8 goroutines"}} at
eight{{if below "the wire limit of GetMulti, 1 goroutine" 2.0}}, so a floor of 2 is out of reach at one caller on this machine{{end}}. Ringside has {{figure "share of the wire limit, GetMulti, 1 goroutine"}} of that limit at
one caller, {{figure "share of the wire limit, GetMulti, 8 goroutines"}} at eight and {{figure "share of the wire limit, GetMulti, 64 goroutines"}} at 64. Memcached
answers 20 requests of a connection at a time and then turns to the next one (-R), at the cost of another write: a server
without that limit gave eight callers 1.82 times gomemcache's throughput where they had 1.60 (28 November 2026).`
		cpu = `Most of what is left is in the system calls, see the throughput.`
	)
	return map[string]string{
		"throughput, 64 goroutines":               many,
		"throughput, 256 goroutines":              many,
		"throughput, 8 goroutines":                few,
		"share of the wire limit, 64 goroutines":  many,
		"share of the wire limit, 256 goroutines": many,
		"client CPU per Get, 64 goroutines":       cpu,
		"p99 latency, 64 goroutines": `It is the latency of a closed loop on two cores that are full: the spread is that of the machine. Memcached's
own LRU maintainer runs for some 120 us a thousand times a second then (perf, 28 November 2026), and whoever shares
its core waits.`,
		"median latency, 1 goroutine":                       `A lone caller's Get is one write and one read on either client; what differs is some hundred nanoseconds of bookkeeping, which the spread of the machine hides.`,
		"GetMulti of 100 keys over 10 nodes, 1 goroutine":   multi,
		"GetMulti of 100 keys over 10 nodes, 8 goroutines":  multi,
		"GetMulti of 100 keys over 10 nodes, 64 goroutines": multi,
		"small Gets while 1 MiB values pass: p99, to that without": `Large values have a connection of their own; what is left is the server's one thread, which copies
a large value before it turns to the next connection, and the two cores, on which client and server copy 1 MiB about
two thousand times a second. Gomemcache, which has a connection for each request, is at
{{figure "gomemcache's small Gets while 1 MiB values pass: p99, to that without"}}.`,
		"KiB for each of 100 idle nodes, after a burst": `Most of it is the node's points on the ring and its share of the lookup table; buffers are lent to busy
connections only.`,
		"memcached protocol, 50 connections, one get at a time: throughput": `With two cores for the load, the proxy and three memcacheds, what a get costs in all is the throughput, and the
sidecar's part of it is {{figure "CPU of the proxy per get, 50 connections"}} times nutcracker's. In a profile (28 November 2026) 68 % of it was system calls: 37 % the
write to the caller, 21 % the write to the node, which 3 requests share, the rest the reads. To hold requests until the
node has answered the ones before had 4 in a write, and made no difference that could be measured.`,
		"one connection, one get at a time: median latency": `Each hop wakes a goroutine, and the reply of the node is read by the one that sent the request; what is left is
the network poller of the runtime, twice for each get.`,
		"gRPC unary Get, 64 callers: share of an empty call (health Check)": `An empty call costs the server nearly as much as one that asks a node: the rest is one write and one read of the
node's socket, which five callers share on average.`,
		"gRPC Stream, 64 requests under way, many in a message: times unary Get": `A message of a Stream is a frame, a marshalled message and a wake of gRPC's writer on both sides, which many in a
message share (StreamRequest.also); what is left is the marshalling. With each request in a message of its own it is
{{figure "gRPC Stream, 64 requests under way, each in a message of its own: times unary Get"}} times unary. The load's own half of gRPC runs on the same two cores.`,
		"largest share of 100 nodes, to the mean":                             `More points for each node would make it more even, and the ring larger.`,
		"killed, ringside: reads answered while it is down, of those offered": `A server is ejected after three failures in a row, and those that meet them fail.`,
		"invalidate: 99th percentile of the hot key's reads during a refill to that after it, median": `A few hundred reads each, on a machine of which the fleet, the servers and the origin take both cores: what
is compared is the worst hundredth of them.`,
		"cold: from the end of the first load until the last has the value, ms, worst round": `Waiters ask again at growing intervals; the worst of the rounds is as long as the longest of them.`,
	}
}
