package ring

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

const (
	// DefaultPort is the port of an address that names none.
	DefaultPort = "11211"
	// MaxWeight is the largest weight of a node.
	MaxWeight = 65535

	maxName = 250
)

// Node is one cache server.
type Node struct {
	// Name is stable and is what is hashed onto the ring. Two nodes must not
	// share one.
	Name string
	// Address is what is dialled: "host:port", "[v6]:port" or "unix:/path".
	Address string
	// Weight is the node's share relative to the others', 1 to MaxWeight.
	Weight int
}

// named tells whether the node was given a name of its own.
func (n Node) named() bool { return n.Name != n.Address }

// String gives the node in the form that ParseNode reads.
func (n Node) String() string {
	s := n.Address
	if n.named() {
		s = n.Name + "@" + s
	}
	if n.Weight != 1 || strings.Contains(s, "*") { // else the path's own * would begin one
		s += "*" + strconv.Itoa(n.Weight)
	}
	return s
}

// ParseNode reads "[name@]address[*weight]". An address is "host:port",
// "host" (port 11211), "[v6]:port", "unix:/path" or "/path". Without a name
// the address, in its full form, is the name; without a weight it is 1.
func ParseNode(s string) (Node, error) {
	n := Node{Weight: 1}
	rest := s
	if i := strings.LastIndexByte(rest, '*'); i >= 0 {
		w, err := strconv.Atoi(rest[i+1:])
		switch {
		case err != nil && !errors.Is(err, strconv.ErrRange):
			return Node{}, fmt.Errorf("server %q: weight %q is not a number", s, rest[i+1:])
		case err != nil || w < 1 || w > MaxWeight:
			return Node{}, fmt.Errorf("server %q: weight %s is not between 1 and %d", s, rest[i+1:], MaxWeight)
		}
		n.Weight, rest = w, rest[:i]
	}
	if i := strings.IndexByte(rest, '@'); i >= 0 && !isSocketPath(rest) {
		n.Name, rest = rest[:i], rest[i+1:]
		if n.Name == "" {
			return Node{}, fmt.Errorf("server %q: the name before @ is empty", s)
		}
	}
	addr, err := normalAddress(rest)
	if err != nil {
		return Node{}, fmt.Errorf("server %q: %w", s, err)
	}
	n.Address = addr
	if n.Name == "" {
		n.Name = addr
	}
	if err := checkName(n.Name); err != nil {
		return Node{}, fmt.Errorf("server %q: %w", s, err)
	}
	return n, nil
}

// ParseNodes reads a list of servers in the form of ParseNode and reports
// every problem in it at once, a server or name given twice among them.
func ParseNodes(list []string) ([]Node, error) {
	var problems []error
	nodes := make([]Node, 0, len(list))
	for _, s := range list {
		n, err := ParseNode(strings.TrimSpace(s))
		if err != nil {
			problems = append(problems, err)
			continue
		}
		nodes = append(nodes, n)
	}
	if err := validateNodes(nodes, len(list) > 0); err != nil {
		problems = append(problems, err)
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return nodes, nil
}

// validateNodes reports an empty list (unless emptyOK), names and addresses
// that stand twice, and fields that are out of bounds.
func validateNodes(nodes []Node, emptyOK bool) error {
	if len(nodes) == 0 && !emptyOK {
		return errors.New("no servers: the list is empty")
	}
	var problems []error
	names := make(map[string]int, len(nodes))
	addrs := make(map[string]int, len(nodes))
	for i, n := range nodes {
		if err := checkName(n.Name); err != nil {
			problems = append(problems, fmt.Errorf("node %d: %w", i, err))
		}
		if n.Weight < 1 || n.Weight > MaxWeight {
			problems = append(problems, fmt.Errorf("node %q: weight %d is not between 1 and %d", n.Name, n.Weight, MaxWeight))
		}
		if _, err := normalAddress(n.Address); err != nil {
			problems = append(problems, fmt.Errorf("node %q: %w", n.Name, err))
		}
		if j, twice := addrs[n.Address]; twice {
			problems = append(problems, fmt.Errorf("server %q is listed twice (places %d and %d)", n.Address, j+1, i+1))
		} else if j, twice := names[n.Name]; twice {
			problems = append(problems, fmt.Errorf("two nodes have the name %q (places %d and %d)", n.Name, j+1, i+1))
		}
		addrs[n.Address], names[n.Name] = i, i
	}
	return errors.Join(problems...)
}

func checkName(name string) error {
	if name == "" {
		return errors.New("the name is empty")
	}
	if len(name) > maxName {
		return fmt.Errorf("the name has %d bytes, at most %d are allowed", len(name), maxName)
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c == 0x7f || c == ',' {
			return fmt.Errorf("the name %q has the byte 0x%02x at place %d, which is not allowed", name, c, i)
		}
	}
	return nil
}

func isSocketPath(s string) bool {
	return strings.HasPrefix(s, "/") || strings.HasPrefix(s, "unix:")
}

// normalAddress gives the full form of an address, or what is wrong with it.
func normalAddress(s string) (string, error) {
	bad := func(more string) func(r rune) bool {
		return func(r rune) bool { return r <= ' ' || r == 0x7f || r == ',' || strings.ContainsRune(more, r) }
	}
	if isSocketPath(s) {
		path := strings.TrimPrefix(s, "unix:")
		if path == "" {
			return "", errors.New("the socket path is empty")
		}
		if i := strings.IndexFunc(path, bad("")); i >= 0 {
			return "", fmt.Errorf("the socket path %q has a character that is not allowed at place %d", path, i)
		}
		return "unix:" + path, nil
	}
	if s == "" {
		return "", errors.New("the address is empty")
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		// No port: a bare host, or an IPv6 address with or without brackets.
		host, port = s, DefaultPort
		if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(inner, "]") {
			host = strings.TrimSuffix(inner, "]")
		}
		if strings.Contains(host, ":") && net.ParseIP(host) == nil {
			return "", fmt.Errorf("the address %q is not host:port", s)
		}
	}
	if host == "" {
		return "", fmt.Errorf("the address %q has no host", s)
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil || p == 0 {
		return "", fmt.Errorf("the port %q is not between 1 and 65535", port)
	}
	if i := strings.IndexFunc(host, bad("/@*[]")); i >= 0 {
		return "", fmt.Errorf("the host %q has a character that is not allowed at place %d", host, i)
	}
	return net.JoinHostPort(host, strconv.FormatUint(p, 10)), nil
}

// split gives an address's host and port; a socket has its path and no port.
func split(address string) (host, port string) {
	if isSocketPath(address) {
		return strings.TrimPrefix(address, "unix:"), ""
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address, ""
	}
	return host, port
}
