package main

// heapReserve is memory that is never touched and so never resident, but counts
// as in use when the collector decides when to run next. The sidecar has some
// 4 MiB in use, and would collect its garbage for every 4 MiB that it allocates,
// dozens of times a second; with the reserve it is for every 20. With 32 MiB or
// GOGC=800 it took no less CPU, and GOGC would make a large heap several times
// as large. Figures of the heap have it in them.
const heapReserve = 16 << 20
