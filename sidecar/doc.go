// Package sidecar shares one ringside client with every process on a host,
// over gRPC and over memcached's own protocol, and shows operators what it
// does over HTTP.
//
// It listens on unix sockets and loopback only unless told otherwise. It
// prints nothing but to the logger it is given. [Sidecar.Run] owns every
// goroutine and ends them before it returns.
package sidecar

// Version is the version of the sidecar and its command.
const Version = "0.1.0"
