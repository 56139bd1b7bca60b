"""One client of the failover scenario: libmemcached through pylibmc.

Reads a line of JSON, fills the cache, says "ready", waits for a line, reads
keys at a given rate from several threads, and prints a list of
[began, took, outcome] in microseconds; outcome 0 is a hit, 1 a miss, 2 failed.
It does what the Go side does in timeline.go: a thread whose read took longer
than to its next moments leaves those out.
"""

import json
import random
import sys
import threading
import time

import pylibmc

setup = json.loads(sys.stdin.readline())
keys = [f"{setup['prefix']}{i:06d}" for i in range(setup["keys"])]
padding = "x" * setup["value"]


def value(key):
    return (key + padding)[: setup["value"]].encode()


def client():
    return pylibmc.Client(setup["servers"], behaviors=setup["behaviors"])


def once(mc, key):
    try:
        got = mc.get(key)
        if got is None:
            mc.set(key, value(key))
            return 1
        return 0 if got == value(key) else 2
    except pylibmc.Error:
        return 2


ticks = []  # a list for each thread


def call(index, mc, start, out):
    draw = random.Random(index)
    every = setup["callers"] / setup["rate"]
    due = every * index / setup["callers"]
    while due < setup["seconds"]:
        wait = start + due - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        began = time.monotonic()
        what = once(mc, keys[draw.randrange(len(keys))])
        ended = time.monotonic()
        out.append((int((began - start) * 1e6), int((ended - began) * 1e6), what))
        due += every
        late = ended - start - due
        if late > 0:
            due += -(-late // every) * every


filler = client()
for key in keys:
    for attempt in range(6):
        try:
            filler.set(key, value(key))
            break
        except pylibmc.Error:
            time.sleep(0.05 * 2**attempt)
    else:
        sys.exit("a key can not be stored")
clients = [client() for _ in range(setup["callers"])]
for mc in clients:  # connected before it counts
    for key in keys[:40]:
        once(mc, key)
print("ready", flush=True)
if not sys.stdin.readline():
    sys.exit(0)
begin = time.monotonic()
threads = []
for i, mc in enumerate(clients):
    ticks.append([])
    threads.append(threading.Thread(target=call, args=(i, mc, begin, ticks[i])))
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps([one for out in ticks for one in out]), flush=True)
