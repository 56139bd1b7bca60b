// Package realserver starts real cache servers (memcached, nutcracker, yrmcds) as child processes on
// loopback, for tests and for the bench command.
//
// It ends only what it started, and it leaves nothing behind: a Server that is closed is gone, and on
// Linux a server also dies with the process that started it, however that process ends.
//
// It does not install anything, it knows no protocol beyond asking for a version, and it is not linked
// into the library or the sidecar. It does not import testing, so that the bench command can use it;
// [TB] is the part of testing.TB that it needs.
//
// A Server is safe for concurrent use.
//
//	func TestSomething(t *testing.T) {
//		mc := realserver.Memcached(t, "-m", "16")
//		c, err := client.New(client.Config{Servers: []string{mc.Addr()}})
//		...
//		mc.Kill()
//		err = mc.Restart() // the same address, empty
//	}
package realserver
