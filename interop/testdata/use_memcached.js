// The protocol is that of driver.py.
'use strict'
const Memcached = require('memcached')

const config = JSON.parse(process.argv[2])
const client = new Memcached(config.servers.map(s => s.path || `${s.host}:${s.port}`))

// call turns the library's callback into a promise.
const call = (name, ...args) => new Promise((resolve, reject) =>
  client[name](...args, (err, got) => (err && !err.notStored ? reject(err) : resolve(got))))
const done = got => ({ ok: got === true })
const item = value => ({ value: Buffer.from(value).toString('base64') })
const number = got => (got === false ? { ok: false } : { ok: true, number: got })
const store = name => async r => done(await call(name, r.key, r.value, r.ttl))
const join = name => async r => done(await call(name, r.key, r.value))
const commands = {
  get: async r => {
    const value = await call('get', r.key)
    return value === undefined ? { ok: false } : { ok: true, ...item(value) }
  },
  gets: async r => {
    const found = await call('gets', r.key)
    return found === undefined ? { ok: false } : { ok: true, cas: found.cas, ...item(found[r.key]) }
  },
  mget: async r => {
    const found = await call('getMulti', r.keys)
    return { ok: true, items: Object.fromEntries(Object.entries(found).map(([k, v]) => [k, item(v)])) }
  },
  set: store('set'),
  add: store('add'),
  replace: store('replace'),
  append: join('append'),
  prepend: join('prepend'),
  cas: async r => done(await call('cas', r.key, r.value, r.cas, r.ttl)),
  delete: async r => done(await call('del', r.key)),
  incr: async r => number(await call('incr', r.key, r.delta)),
  decr: async r => number(await call('decr', r.key, r.delta)),
  touch: async r => done(await call('touch', r.key, r.ttl))
}

const answer = reply => process.stdout.write(JSON.stringify(reply) + '\n')

async function main () {
  answer({ ok: true })
  for await (const line of require('readline').createInterface({ input: process.stdin })) {
    const r = JSON.parse(line)
    const bytes = Buffer.from(r.value || '', 'base64')
    // A string is stored as it is, a Buffer in an encoding of the library's own.
    const text = bytes.toString()
    r.value = Buffer.from(text).equals(bytes) ? text : bytes
    const do_ = commands[r.op]
    try {
      answer(do_ ? await do_(r) : { lacking: true })
    } catch (err) {
      answer({ error: String(err) })
    }
  }
  client.end()
}
main()
