import driver
from pymemcache.client.base import Client
from pymemcache.client.hash import HashClient


class Plain:
    """Values as they are, and their flags beside them."""

    def serialize(self, key, value):
        return value, 0

    def deserialize(self, key, value, flags):
        return value, flags


noreply = driver.options.get("noreply", False)
addresses = [s.path or (s.host, s.port) for s in driver.servers]
kwargs = {"serde": Plain(), "allow_unicode_keys": True, "timeout": 10}
client = HashClient(addresses, **kwargs) if len(addresses) > 1 else Client(addresses[0], **kwargs)


def get(r):
    found = client.get(r.key)
    return driver.hit(*found) if found else driver.MISS


def gets(r):
    found, cas = client.gets(r.key)
    return driver.hit(*found, cas=cas.decode()) if found else driver.MISS


def mget(r):
    return {"ok": True, "items": {k: driver.item(*v) for k, v in client.get_many(r.keys).items()}}


def store(name):
    return lambda r: driver.done(getattr(client, name)(r.key, r.value, r.ttl, noreply=noreply, flags=r.flags))


def arithmetic(name):
    def do(r):
        n = getattr(client, name)(r.key, r.delta)
        return driver.MISS if n is None else driver.number(n)

    return do


commands = {name: store(name) for name in ("set", "add", "replace", "append", "prepend")}
commands |= {name: arithmetic(name) for name in ("incr", "decr")}
commands |= {
    "get": get,
    "gets": gets,
    "mget": mget,
    "cas": lambda r: driver.done(client.cas(r.key, r.value, r.cas, r.ttl, flags=r.flags)),
    "delete": lambda r: driver.done(client.delete(r.key, noreply=noreply)),
    "touch": lambda r: driver.done(client.touch(r.key, r.ttl, noreply=noreply)),
}
driver.serve(commands)
