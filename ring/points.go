package ring

import (
	"crypto/md5"
	"encoding/binary"
	"math"
	"net/netip"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// A rawPoint is a point before it is sorted into the continuum.
type rawPoint struct {
	value uint32
	node  uint32
}

// pointsPerWeight is the number of points that a node of Ketama has for each
// unit of weight. The relative deviation of a node's share is 1/sqrt(points):
// 2.5% here, so that the largest of 100 shares stays below 1.10 of the mean
// (TestKetamaBalance). It must not depend on the other nodes, else a join
// would move keys between two old nodes.
const pointsPerWeight = 1600

// maxPoints bounds a continuum's memory to 16 M points, 192 MiB.
const maxPoints = 1 << 24

// ketamaPoints takes two points from the two halves of each XXH64.
func ketamaPoints(nodes []Node, _ keyHash) []rawPoint {
	total := 0
	for _, n := range nodes {
		total += n.Weight * pointsPerWeight
	}
	points := make([]rawPoint, 0, total)
	var buf []byte
	for i, n := range nodes {
		buf = append(append(buf[:0], n.Name...), '-')
		prefix := len(buf)
		for j := range n.Weight * pointsPerWeight / 2 {
			buf = strconv.AppendInt(buf[:prefix], int64(j), 10)
			h := xxhash.Sum64(buf)
			points = append(points, rawPoint{uint32(h >> 32), uint32(i)}, rawPoint{uint32(h), uint32(i)})
		}
	}
	return points
}

// libmemcachedPoints gives 100 points a node, each the key hash of
// "label-i". A weight above 1 turns the ring into the weighted one while the
// key hash stays; so it is with libmemcached when the behavior is set before
// the servers are added, as pylibmc does.
func libmemcachedPoints(label func(Node) string, weighted bool) func([]Node, keyHash) []rawPoint {
	asWeighted := md5Points(label, shareOf160)
	return func(nodes []Node, hash keyHash) []rawPoint {
		if weighted || anyWeight(nodes) {
			return asWeighted(nodes, hash)
		}
		const perNode = 100
		points := make([]rawPoint, 0, perNode*len(nodes))
		for i, n := range nodes {
			prefix := label(n) + "-"
			for j := range perNode {
				points = append(points, rawPoint{hash(prefix + strconv.Itoa(j)), uint32(i)})
			}
		}
		return points
	}
}

// md5Points gives counts(nodes)[i] points to node i, four from each
// md5("label-j"), little-endian.
func md5Points(label func(Node) string, counts func([]Node) []int) func([]Node, keyHash) []rawPoint {
	return func(nodes []Node, _ keyHash) []rawPoint {
		var points []rawPoint
		for i, count := range counts(nodes) {
			prefix := label(nodes[i]) + "-"
			for j := range count / 4 {
				sum := md5.Sum([]byte(prefix + strconv.Itoa(j)))
				for k := 0; k < len(sum); k += 4 {
					points = append(points, rawPoint{binary.LittleEndian.Uint32(sum[k:]), uint32(i)})
				}
			}
		}
		return points
	}
}

// dalliPoints takes each point from the first 8 hex digits of
// sha1("host:port:j").
func dalliPoints(nodes []Node, _ keyHash) []rawPoint {
	total := 0
	for _, n := range nodes {
		total += n.Weight
	}
	var points []rawPoint
	for i, n := range nodes {
		prefix := hostPort(n) + ":"
		count := int(math.Floor(float64(len(nodes)*160*n.Weight) / float64(total)))
		for j := range count {
			points = append(points, rawPoint{sha1Point(prefix + strconv.Itoa(j)), uint32(i)})
		}
	}
	return points
}

// shareOf160 is libmemcached's and twemproxy's number of points, in IEEE
// single precision with each operation rounded. Go may fuse operations of
// one expression; an explicit conversion forbids that, so each step has one.
func shareOf160(nodes []Node) []int {
	total := 0
	for _, n := range nodes {
		total += n.Weight
	}
	counts := make([]int, len(nodes))
	for i, n := range nodes {
		pct := float32(float32(n.Weight) / float32(total))
		quarter := float32(float32(pct*160) / 4)
		share := float32(quarter * float32(len(nodes)))
		// The C code adds a double to the float and converts the sum back.
		sum := float32(float64(share) + 1e-10)
		counts[i] = int(math.Floor(float64(sum))) * 4
	}
	return counts
}

// spymemcachedCounts is 160 for each node where none is weighted.
func spymemcachedCounts(nodes []Node) []int {
	if anyWeight(nodes) {
		return shareOf160(nodes)
	}
	counts := make([]int, len(nodes))
	for i := range counts {
		counts[i] = 160
	}
	return counts
}

func anyWeight(nodes []Node) bool {
	for _, n := range nodes {
		if n.Weight > 1 {
			return true
		}
	}
	return false
}

// place is where a dialect without names of its own believes a node to be:
// the node's name where that reads as an address, so that a node which moves
// to another address can keep its place under its old one.
func place(n Node) (host, port string) {
	addr, err := normalAddress(n.Name)
	if err != nil {
		return n.Name, ""
	}
	return split(addr)
}

// libmemcachedLabel: the host alone on the default port; a socket has port 0.
func libmemcachedLabel(n Node) string {
	switch host, port := place(n); port {
	case "":
		return host + ":0"
	case DefaultPort:
		return host
	default:
		return host + ":" + port
	}
}

func libmemcachedSpyLabel(n Node) string {
	host, port := place(n)
	if port == "" {
		port = "0"
	}
	return "/" + host + ":" + port
}

// twemproxyLabel: a name of its own is taken as it is.
func twemproxyLabel(n Node) string {
	if n.named() {
		return n.Name
	}
	switch host, port := split(n.Address); port {
	case DefaultPort:
		return host
	default:
		return host + ":" + port
	}
}

// spymemcachedLabel is Java's InetSocketAddress.toString without the leading
// slash (Java 14 and later): "10.0.0.1:11211", "name/10.0.0.1:11211" for a
// named node, "name/<unresolved>:11211" for a host that is no IP address.
func spymemcachedLabel(n Node) string {
	host, port := split(n.Address)
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host + "/<unresolved>:" + port
	}
	label := javaIP(ip) + ":" + port
	if n.named() {
		name := n.Name
		if h, p := split(name); p != "" {
			name = h
		}
		label = name + "/" + label
	}
	return label
}

// javaIP prints an IPv6 address as Java does: eight groups, none left out.
func javaIP(ip netip.Addr) string {
	if ip.Is4() {
		return ip.String()
	}
	b := ip.As16()
	groups := make([]string, 8)
	for i := range groups {
		groups[i] = strconv.FormatUint(uint64(binary.BigEndian.Uint16(b[2*i:])), 16)
	}
	return "[" + strings.Join(groups, ":") + "]"
}

// hostPort is "host:port" with the port always there, a socket's path alone.
func hostPort(n Node) string {
	host, port := place(n)
	if port == "" {
		return host
	}
	return host + ":" + port
}
