import sys

import driver
import grpc

sys.path.insert(0, driver.options["stubs"])
from ringside.v1 import ringside_pb2 as pb  # noqa: E402

server = driver.servers[0]
channel = grpc.insecure_channel(f"unix:{server.path}" if server.path else f"{server.host}:{server.port}")


def method(name):
    """Debian has no generator of stubs, and a method is but its name and its two messages."""
    request, response = getattr(pb, name + "Request"), getattr(pb, name + "Response")
    call = channel.unary_unary(
        f"/ringside.v1.Cache/{name}",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )

    def do(**fields):
        try:
            return call(request(**fields), timeout=10)
        except grpc.RpcError as e:
            raise RuntimeError(f"{e.code().name} {e.details()}") from e

    return do


get_method, get_multi, set_method, delete = map(method, ("Get", "GetMulti", "Set", "Delete"))


def get(r):
    reply = get_method(key=r.key.encode())
    v = reply.value
    return driver.hit(v.value, v.flags, v.version.hex()) if reply.found else driver.MISS


def mget(r):
    reply = get_multi(keys=[k.encode() for k in r.keys])
    if reply.failures:
        raise RuntimeError(f"failures: {reply.failures}")
    return {"ok": True, "items": {v.key.decode(): driver.item(v.value, v.flags) for v in reply.values}}


def set_(r):
    set_method(key=r.key.encode(), value=r.value, flags=r.flags, ttl_seconds=r.ttl)
    return driver.done(True)


def health(r):
    """grpc.health.v1: the request's first field is the service, the reply's a number that is 1 for SERVING."""
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    service = r.key.encode()
    return driver.done(check(bytes([10, len(service)]) + service, timeout=10) == b"\x08\x01")


driver.serve(
    {
        "get": get,
        "mget": mget,
        "set": set_,
        "delete": lambda r: driver.done(delete(key=r.key.encode()).found),
        "health": health,
    }
)
