"""What a service does with the sidecar: single keys, many keys, a stream, and a lease."""

import threading
import time

import grpc

import sidecar
from sidecar import pb

TIMEOUT = 5  # seconds; a call without a timeout can wait for ever


def single_keys(cache):
    cache.Set(pb.SetRequest(key=b"user:1", value=b"Ada", ttl_seconds=300), timeout=TIMEOUT)
    reply = cache.Get(pb.GetRequest(key=b"user:1"), timeout=TIMEOUT)
    print("get user:1:", reply.value.value.decode())

    # A miss is a field of the reply and no error.
    cache.Delete(pb.DeleteRequest(key=b"user:2"), timeout=TIMEOUT)
    print("get user:2: found is", cache.Get(pb.GetRequest(key=b"user:2"), timeout=TIMEOUT).found)

    # A value's version is for a change that must not undo somebody else's.
    swap = pb.CompareAndSwapRequest(key=b"user:1", value=b"Ada Lovelace", version=reply.value.version, ttl_seconds=300)
    for attempt in "first", "second":
        outcome = cache.CompareAndSwap(swap, timeout=TIMEOUT).outcome
        print(f"compare and swap, {attempt}:", pb.CompareAndSwapResponse.Outcome.Name(outcome))

    # What went wrong is a status. A bad key is the caller's mistake; UNAVAILABLE is a node that is down.
    try:
        cache.Get(pb.GetRequest(key=b"a key with spaces"), timeout=TIMEOUT)
    except grpc.RpcError as e:
        print("get of a bad key:", e.code().name)


def many_keys(cache):
    # One round trip to each node concerned. Check failures: a key that could not be read is no miss.
    reply = cache.GetMulti(pb.GetMultiRequest(keys=[b"user:1", b"user:2"]), timeout=TIMEOUT)
    found = {v.key.decode(): v.value.decode() for v in reply.values}
    print("get multi:", found, "failures:", len(reply.failures))


def stream(cache):
    # Requests that are under way together travel together. Replies come in any order, with their ids.
    n = 1000

    def requests(make):
        return (pb.StreamRequest(id=i, **make(b"number:%d" % i, b"%d" % i)) for i in range(n))

    sets = requests(lambda key, value: {"set": pb.SetRequest(key=key, value=value, ttl_seconds=60)})
    stored = sum(reply.WhichOneof("response") == "set" for reply in cache.Stream(sets, timeout=TIMEOUT * 2))
    gets = requests(lambda key, value: {"get": pb.GetRequest(key=key)})
    right = sum(reply.get.value.value == b"%d" % reply.id for reply in cache.Stream(gets, timeout=TIMEOUT * 2))
    print(f"stream: {stored} stored, {right} read back")


def lease(cache):
    # One caller of all that ask, on all hosts, is told to load. The others wait for it or get the old value.
    key, loads, values = b"report:today", [], []
    cache.Delete(pb.DeleteRequest(key=key), timeout=TIMEOUT)

    def load():
        time.sleep(0.3)
        loads.append(1)
        return b"42 pages"

    def read():
        while True:
            answer = cache.Lease(pb.LeaseRequest(key=key, wait_millis=2000), timeout=TIMEOUT)
            if answer.state in (pb.LeaseResponse.STATE_FRESH, pb.LeaseResponse.STATE_STALE):
                values.append(answer.value)
                return
            if answer.state == pb.LeaseResponse.STATE_WON:
                try:
                    value = load()
                except Exception as e:
                    failed = pb.ReleaseRequest(token=answer.token, outcome=pb.ReleaseRequest.OUTCOME_FAILED, message=str(e))
                    cache.Release(failed, timeout=TIMEOUT)
                    raise
                cache.Fill(pb.FillRequest(token=answer.token, value=value, ttl_seconds=60), timeout=TIMEOUT)
                values.append(value)
                return
            if answer.state != pb.LeaseResponse.STATE_WAIT:  # ../python-web takes care of all of them
                raise RuntimeError(pb.LeaseResponse.State.Name(answer.state))

    threads = [threading.Thread(target=read) for _ in range(20)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    print(f"lease: {len(values)} callers got {values[0].decode()!r}, {len(loads)} loaded it")


def main():
    cache = sidecar.connect()
    single_keys(cache)
    many_keys(cache)
    stream(cache)
    lease(cache)
    cache.close()


if __name__ == "__main__":
    main()
