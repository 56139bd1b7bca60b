// Package archtest has no code. Its test keeps the module's dependencies pointing down: it holds the
// table of who may import what, and fails where a package imports anything else.
package archtest
