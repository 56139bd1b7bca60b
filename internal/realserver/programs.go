//go:build unix

package realserver

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// StartMemcached runs memcached on a free loopback port, with one thread, no UDP, and args behind that
// (the last of a repeated option counts, so args can override). The caller owns the Server and ends it
// with Close. With -Z in args it is ready when it accepts a connection, else when it answers version.
func StartMemcached(args ...string) (*Server, error) {
	return start(memcached(args, func(_ string, ports []int) (launch, []string) {
		addr := loopback(ports[0])
		return launch{network: "tcp", address: addr}, []string{"-l", "127.0.0.1", "-p", strconv.Itoa(ports[0]), "-U", "0"}
	}, 1))
}

// StartMemcachedUnix is StartMemcached on a unix socket in a directory of its own.
func StartMemcachedUnix(args ...string) (*Server, error) {
	return start(memcached(args, func(dir string, _ []int) (launch, []string) {
		path := filepath.Join(dir, "socket")
		return launch{network: "unix", address: path}, []string{"-s", path}
	}, 0))
}

func memcached(args []string, listen func(dir string, ports []int) (launch, []string), ports int) program {
	ready := answersVersion
	if slices.Contains(args, "-Z") || slices.Contains(args, "--enable-ssl") {
		ready = accepts
	}
	return program{
		name:  "memcached",
		pkg:   "memcached",
		ports: ports,
		ready: ready,
		plan: func(dir string, ports []int) (launch, error) {
			l, own := listen(dir, ports)
			own = append(own, "-t", "1")
			if os.Geteuid() == 0 {
				// memcached as root insists on -u. Not nobody: see sysProcAttr.
				own = append(own, "-u", "root")
			}
			l.args = append(own, args...)
			return l, nil
		},
	}
}

// Pool is what nutcracker (twemproxy) serves: one pool of servers behind one address.
type Pool struct {
	// Servers are the nodes, as [name@]address[*weight] with an address as [Server.Addr] gives it.
	// Without a name twemproxy hashes the address (and for port 11211 only its host). The default
	// weight is 1. At least one is needed.
	Servers []string
	// Distribution is ketama (the default), modula or random.
	Distribution string
	// Hash is the key hash in twemproxy's spelling. Default fnv1a_64.
	Hash string
}

// StartNutcracker runs nutcracker in front of the pool, on a free loopback port, with
// auto_eject_hosts off: placement never depends on who is down. The caller ends it with Close.
func StartNutcracker(pool Pool) (*Server, error) {
	return start(program{
		name:  "nutcracker",
		pkg:   "nutcracker",
		ports: 2, // the second is for its statistics, which cannot be switched off
		ready: accepts,
		plan: func(dir string, ports []int) (launch, error) {
			addr := loopback(ports[0])
			conf, err := pool.config(addr)
			if err != nil {
				return launch{}, err
			}
			file := filepath.Join(dir, "nutcracker.yml")
			return launch{
				network: "tcp",
				address: addr,
				args: []string{
					"--conf-file", file,
					"--output", "/dev/stderr",
					"--pid-file", filepath.Join(dir, "nutcracker.pid"),
					"--stats-addr", "127.0.0.1",
					"--stats-port", strconv.Itoa(ports[1]),
				},
			}, os.WriteFile(file, conf, 0o600)
		},
	})
}

// config is nutcracker's YAML for a pool that listens on addr.
func (p Pool) config(addr string) ([]byte, error) {
	if len(p.Servers) == 0 {
		return nil, errors.New("a pool needs at least one server")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "ringside:\n  listen: %s\n", addr)
	fmt.Fprintf(&b, "  distribution: %s\n  hash: %s\n", cmp.Or(p.Distribution, "ketama"), cmp.Or(p.Hash, "fnv1a_64"))
	// A frozen server would hold its clients forever without a timeout (milliseconds).
	b.WriteString("  auto_eject_hosts: false\n  timeout: 2000\n  servers:\n")
	for _, s := range p.Servers {
		line, err := poolServer(s)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "    - %q\n", line)
	}
	return []byte(b.String()), nil
}

// poolServer turns [name@]address[*weight] into twemproxy's "address:weight[ name]".
func poolServer(s string) (string, error) {
	if strings.ContainsAny(s, " \t\r\n\"\\") {
		return "", fmt.Errorf("pool server %q: blanks, quotes and backslashes are not supported", s)
	}
	name, addr, named := strings.Cut(s, "@")
	if !named {
		name, addr = "", s
	}
	addr, weight, weighted := strings.Cut(addr, "*")
	if !weighted {
		weight = "1"
	}
	if n, err := strconv.Atoi(weight); err != nil || n < 1 {
		return "", fmt.Errorf("pool server %q: weight %q is not a positive number", s, weight)
	}
	line := strings.TrimPrefix(addr, "unix:") + ":" + weight
	if name != "" {
		line += " " + name
	}
	return line, nil
}

// StartYrmcds runs yrmcds, which speaks the classic text protocol and answers ERROR to every meta
// command, on a free loopback port. The caller ends it with Close.
func StartYrmcds() (*Server, error) {
	return start(program{
		name:  "yrmcdsd",
		pkg:   "yrmcds",
		ports: 2, // the second is for replication, which cannot be switched off
		ready: answersVersion,
		plan: func(dir string, ports []int) (launch, error) {
			file := filepath.Join(dir, "yrmcds.conf")
			// It becomes master because it owns virtual_ip, and it listens there too. Without bind_ip
			// it would listen on every address of the host, and with the same one it would fail; so
			// bind_ip is a second loopback address.
			conf := fmt.Sprintf("virtual_ip = 127.0.0.1\nbind_ip = 127.0.0.2\nport = %d\nrepl_port = %d\n"+
				"temp_dir = %q\nworkers = 1\nbuckets = 10007\nmemory_limit = 64M\n", ports[0], ports[1], dir)
			return launch{
				network: "tcp",
				address: loopback(ports[0]),
				args:    []string{"-f", file},
			}, os.WriteFile(file, []byte(conf), 0o600)
		},
	})
}
