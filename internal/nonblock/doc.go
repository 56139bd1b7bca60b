// Package nonblock reads and writes plain sockets without the detours that a
// net.Conn makes for those that may block.
//
// A net.Conn tells the scheduler of each system call. One that takes longer
// than some 20 us, as a write on loopback does that wakes a busy server, may
// then lose its processor to another thread, and both go on to compete. A call
// on a non-blocking socket returns at once, so here, on Linux, the scheduler is
// not told. It relies on the sockets staying as package net made them. Under the
// race detector it is told, as the detector takes the order of things in different
// goroutines from these calls too.
package nonblock
