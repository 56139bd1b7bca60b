"""Carries out requests with a library, for the Go tests: a JSON object a line on stdin, and a reply a
line on stdout. Values travel as base64."""

import base64
import json
import sys
from types import SimpleNamespace

config = json.loads(sys.argv[1])
servers = [SimpleNamespace(**s) for s in config["servers"]]
options = config.get("options") or {}


def done(ok):
    return {"ok": bool(ok)}


def item(value, flags=0):
    return {"value": base64.b64encode(value).decode(), "flags": flags}


def hit(value, flags=0, cas=""):
    return {"ok": True, "cas": str(cas), **item(value, flags)}


def number(n):
    return {"ok": True, "number": n}


MISS = {"ok": False}


def serve(commands):
    """commands has a function for each operation that the library offers: from request to reply."""
    print(json.dumps({"ok": True}), flush=True)
    for line in sys.stdin:
        request = SimpleNamespace(**json.loads(line))
        request.value = base64.b64decode(request.value or "")
        command = commands.get(request.op)
        try:
            reply = command(request) if command else {"lacking": True}
        except Exception as e:  # whatever the library raises is what the test wants to see
            reply = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(reply), flush=True)
