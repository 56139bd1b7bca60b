import sys

import driver
import grpc

sys.path[:0] = [driver.options["stubs"], driver.options["connection"]]
import sidecar  # noqa: E402
from sidecar import pb  # noqa: E402

server = driver.servers[0]
channel = grpc.insecure_channel(f"unix:{server.path}" if server.path else f"{server.host}:{server.port}")


cache = sidecar.Cache(channel)


def call(name, **fields):
    try:
        return getattr(cache, name)(getattr(pb, name + "Request")(**fields), timeout=10)
    except grpc.RpcError as e:
        raise RuntimeError(f"{e.code().name} {e.details()}") from e


def hit(reply):
    v = reply.value
    return driver.hit(v.value, v.flags, v.version.hex()) if reply.found else driver.MISS


def mget(r):
    reply = call("GetMulti", keys=[k.encode() for k in r.keys])
    if reply.failures:
        raise RuntimeError(f"failures: {reply.failures}")
    return {"ok": True, "items": {v.key.decode(): driver.item(v.value, v.flags) for v in reply.values}}


def store(name):
    def do(r):
        reply = call(name, key=r.key.encode(), value=r.value, flags=r.flags, ttl_seconds=r.ttl)
        return driver.done(name == "Set" or reply.stored)

    return do


def join(name):
    return lambda r: driver.done(call(name, key=r.key.encode(), value=r.value).stored)


def cas(r):
    reply = call(
        "CompareAndSwap", key=r.key.encode(), value=r.value, flags=r.flags, ttl_seconds=r.ttl, version=bytes.fromhex(r.cas)
    )
    return driver.done(reply.outcome == pb.CompareAndSwapResponse.OUTCOME_STORED)


def arithmetic(name):
    def do(r):
        reply = call(name, key=r.key.encode(), delta=r.delta)
        return driver.number(reply.number) if reply.found else driver.MISS

    return do


def health(r):
    """grpc.health.v1: the request's first field is the service, the reply's a number that is 1 for SERVING."""
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    service = r.key.encode()
    return driver.done(check(bytes([10, len(service)]) + service, timeout=10) == b"\x08\x01")


def get(r):
    return hit(call("Get", key=r.key.encode()))


commands = {name.lower(): store(name) for name in ("Set", "Add", "Replace")}
commands |= {name.lower(): join(name) for name in ("Append", "Prepend")}
commands |= {"incr": arithmetic("Increment"), "decr": arithmetic("Decrement")}
commands |= {
    "get": get,
    "gets": get,
    "gat": lambda r: hit(call("GetAndTouch", key=r.key.encode(), ttl_seconds=r.ttl)),
    "mget": mget,
    "cas": cas,
    "delete": lambda r: driver.done(call("Delete", key=r.key.encode()).found),
    "touch": lambda r: driver.done(call("Touch", key=r.key.encode(), ttl_seconds=r.ttl).found),
    "health": health,
}
driver.serve(commands)
