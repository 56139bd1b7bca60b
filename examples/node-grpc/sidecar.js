// The sidecar's gRPC service, its methods as functions that give promises.
'use strict'
const path = require('node:path')
const grpc = require('@grpc/grpc-js')
const { loadSync } = require('@grpc/proto-loader')

const contract = path.join(__dirname, '../../proto/ringside/v1/ringside.proto')
const definition = loadSync(contract, {
  keepCase: true, // names as they stand in the contract
  longs: String, // a number of 64 bits does not fit into a JavaScript number
  enums: String,
  defaults: true, // unset fields have their zero values
  oneofs: true // reply.response is the name of the field that is set
})
const { Cache } = grpc.loadPackageDefinition(definition).ringside.v1

// connect makes the connection of the whole process. RINGSIDE_GRPC is host:port or unix:/path.
function connect () {
  const client = new Cache(process.env.RINGSIDE_GRPC || '127.0.0.1:11312', grpc.credentials.createInsecure())
  const cache = {
    // stream gives a call to write requests to and to read replies from.
    stream: timeout => client.Stream({ deadline: Date.now() + timeout }),
    close: () => client.close() // leases that it holds are released
  }
  for (const [name, method] of Object.entries(Cache.service)) {
    if (method.requestStream) continue
    // timeout is in milliseconds; a call without one can wait for ever.
    cache[name] = (request, timeout = 5000) => new Promise((resolve, reject) =>
      client[name](request, { deadline: Date.now() + timeout }, (err, reply) => err ? reject(err) : resolve(reply)))
  }
  return cache
}

module.exports = { connect, status: grpc.status }
