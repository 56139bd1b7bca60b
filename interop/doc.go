// Package interop tests ringside against what other people wrote: real servers and proxies, and the
// memcached libraries of other languages, through the real `ringside` command. It has no code.
//
// Its tests need the build tag interop and the programs that scripts/need-interop installs
// (`make test-interop`). A test whose program is missing is skipped, or fails where the environment
// variable CI is set. A script in testdata, named use_LIBRARY, carries out requests with one library;
// driver.py has their form.
package interop
