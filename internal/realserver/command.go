//go:build unix

package realserver

// StartCommand runs a program that is no cache server of this package's own, such as the sidecar, which
// must not be linked in here. args gives its command line for as many free loopback ports as asked for;
// on the first of them it is ready when it answers memcached's version. The caller ends it with Close,
// or politely with Terminate.
func StartCommand(path string, ports int, args func(ports []int) []string) (*Server, error) {
	return start(program{
		name:  path,
		pkg:   "of none",
		ports: ports,
		ready: answersVersion,
		plan: func(_ string, ports []int) (launch, error) {
			return launch{network: "tcp", address: loopback(ports[0]), args: args(ports)}, nil
		},
	})
}
