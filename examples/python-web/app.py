"""A small web service with a database that is slow.

GET /products/ID, POST to make one, PUT to change one, both {"name": "..."}.
GET /queries says how many queries the database has had from this process.
"""

import json
import logging
import os
import re
import sqlite3
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import sidecar
from readthrough import Busy, NotFound, ReadThrough

SLOW = float(os.environ.get("QUERY_SECONDS", "1"))


class Products:
    """The table of products. Every query takes SLOW seconds."""

    def __init__(self, path):
        self.path = path
        self.queries = 0
        self.counting = threading.Lock()
        self.execute("CREATE TABLE IF NOT EXISTS products (id TEXT PRIMARY KEY, name TEXT NOT NULL)")

    def execute(self, statement, *values):
        db = sqlite3.connect(self.path, timeout=10)
        try:
            with db:  # commits
                return db.execute(statement, values).fetchone()
        finally:
            db.close()

    def query(self, product):
        with self.counting:
            self.queries += 1
        row = self.execute("SELECT name FROM products WHERE id = ?", product)
        time.sleep(SLOW)
        if row is None:
            raise NotFound
        return json.dumps({"id": product, "name": row[0]}).encode()

    def save(self, product, name):
        self.execute("INSERT OR REPLACE INTO products VALUES (?, ?)", product, name)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/queries":
            return self.reply(200, b"%d" % self.server.products.queries)
        return self.handle_product(self.get_product)

    def do_POST(self):
        return self.handle_product(self.post_product)

    def do_PUT(self):
        return self.handle_product(self.put_product)

    def get_product(self, product):
        products = self.server.products
        return self.server.cache.get(key_of(product), lambda: products.query(product))

    def post_product(self, product):
        self.server.products.save(product, self.name())
        self.server.cache.invalidate(key_of(product))  # somebody may have asked for it before it was there
        return b"{}"

    def put_product(self, product):
        products = self.server.products
        products.save(product, self.name())
        # Only now, after the commit: a load that began before must not bring the old value back.
        self.server.cache.update(key_of(product), lambda: products.query(product))
        return b"{}"

    def name(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        return str(body["name"])

    def handle_product(self, do):
        path = re.fullmatch(r"/products/([A-Za-z0-9_-]{1,100})", self.path)  # what fits into a key
        if not path:
            self.close_connection = True  # a body may be there that nobody reads
            return self.reply(404, b"{}")
        try:
            return self.reply(200, do(path[1]))
        except NotFound:
            return self.reply(404, b"{}")
        except (ValueError, KeyError, TypeError):
            return self.reply(400, b"{}")
        except Busy as e:
            logging.warning("%s %s: %s", self.command, self.path, e)
            return self.reply(503, b"{}", ("Retry-After", "1"))
        except Exception:
            logging.exception("%s %s", self.command, self.path)
            return self.reply(500, b"{}")

    def reply(self, status, body, *headers):
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # of connections that wait to be accepted


def key_of(product):
    return f"product:{product}".encode()


def main():
    logging.basicConfig(format="%(name)s: %(message)s")
    server = Server(("127.0.0.1", int(os.environ.get("PORT", "8080"))), Handler)
    server.products = Products(os.environ.get("DATABASE", "products.db"))
    server.cache = ReadThrough(sidecar.connect())
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.cache.cache.close()


if __name__ == "__main__":
    main()
