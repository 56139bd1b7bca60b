// What a service does with the sidecar: single keys, many keys, a stream, and a lease.
'use strict'
const { setTimeout: sleep } = require('node:timers/promises')
const { connect, status } = require('./sidecar')

const cache = connect()
const bytes = text => Buffer.from(text)

async function singleKeys () {
  await cache.Set({ key: bytes('user:1'), value: bytes('Ada'), ttl_seconds: 300 })
  const { value } = await cache.Get({ key: bytes('user:1') })
  console.log('get user:1:', value.value.toString())

  // A miss is a field of the reply and no error.
  await cache.Delete({ key: bytes('user:2') })
  console.log('get user:2: found is', (await cache.Get({ key: bytes('user:2') })).found)

  // A value's version is for a change that must not undo somebody else's.
  const swap = { key: bytes('user:1'), value: bytes('Ada Lovelace'), version: value.version, ttl_seconds: 300 }
  for (const attempt of ['first', 'second']) {
    console.log(`compare and swap, ${attempt}:`, (await cache.CompareAndSwap(swap)).outcome)
  }

  // What went wrong is a status. A bad key is the caller's mistake; UNAVAILABLE is a node that is down.
  await cache.Get({ key: bytes('a key with spaces') }).catch(err => console.log('get of a bad key:', status[err.code]))
}

async function manyKeys () {
  // One round trip to each node concerned. Check failures: a key that could not be read is no miss.
  const { values, failures } = await cache.GetMulti({ keys: ['user:1', 'user:2'].map(bytes) })
  const found = values.map(v => `${v.key}=${v.value}`)
  console.log('get multi:', found.join(' '), 'failures:', failures.length)
}

async function streamed () {
  // Requests that are under way together travel together. Replies come in any order, with their ids.
  const exchange = async requests => {
    const call = cache.stream(10000)
    for (const request of requests) call.write(request)
    call.end()
    const replies = []
    for await (const reply of call) replies.push(reply)
    return replies
  }
  const numbers = Array.from({ length: 1000 }, (_, i) => i)
  const key = i => bytes(`number:${i}`)
  const sets = await exchange(numbers.map(i => ({ id: i, set: { key: key(i), value: bytes(`${i}`), ttl_seconds: 60 } })))
  const gets = await exchange(numbers.map(i => ({ id: i, get: { key: key(i) } })))
  const stored = sets.filter(reply => reply.response === 'set').length
  const right = gets.filter(reply => reply.response === 'get' && reply.get.found && reply.get.value.value.toString() === reply.id)
  console.log(`stream: ${stored} stored, ${right.length} read back`)
}

async function leased () {
  // One caller of all that ask, on all hosts, is told to load. The others wait for it or get the old value.
  const key = bytes('report:today')
  await cache.Delete({ key })
  let loads = 0
  const load = async () => {
    await sleep(300)
    loads++
    return bytes('42 pages')
  }
  const read = async () => {
    for (;;) {
      const answer = await cache.Lease({ key, wait_millis: 2000 })
      switch (answer.state) {
        case 'STATE_FRESH':
        case 'STATE_STALE':
          return answer.value
        case 'STATE_WON': {
          let value
          try {
            value = await load()
          } catch (err) {
            await cache.Release({ token: answer.token, outcome: 'OUTCOME_FAILED', message: String(err) })
            throw err
          }
          await cache.Fill({ token: answer.token, value, ttl_seconds: 60 })
          return value
        }
        case 'STATE_WAIT':
          continue
        default: // ../python-web takes care of all of them
          throw new Error(answer.state)
      }
    }
  }
  const values = await Promise.all(Array.from({ length: 20 }, read))
  console.log(`lease: ${values.length} callers got '${values[0]}', ${loads} loaded it`)
}

async function main () {
  await singleKeys()
  await manyKeys()
  await streamed()
  await leased()
  cache.close()
}

main().catch(err => {
  console.error(err)
  process.exit(1)
})
