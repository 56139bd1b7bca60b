# The protocol is that of driver.py.
require 'base64'
require 'dalli'
require 'json'
require 'logger'

Dalli.logger = Logger.new(IO::NULL)
config = JSON.parse(ARGV[0])
servers = config['servers'].map do |s|
  s['path'].empty? ? "#{s['host']}:#{s['port']}:#{s['weight']}" : "#{s['path']}:#{s['weight']}"
end
options = (config['options'] || {}).transform_keys(&:to_sym)
client = Dalli::Client.new(servers, compress: false, **options)

item = ->(value) { { value: Base64.strict_encode64(value) } }
hit = ->(value) { value.nil? ? { ok: false } : { ok: true, **item.(value) } }
number = ->(n) { n.nil? ? { ok: false } : { ok: true, number: n } }
store = ->(name) { ->(r) { { ok: !!client.public_send(name, r['key'], r['value'], r['ttl'], raw: true) } } }
join = ->(name) { ->(r) { { ok: !!client.public_send(name, r['key'], r['value']) } } }
commands = {
  'get' => ->(r) { hit.(client.get(r['key'])) },
  'gets' => lambda do |r|
    value, cas = client.get_cas(r['key'])
    hit.(value).merge(cas: cas.to_s)
  end,
  'gat' => ->(r) { hit.(client.gat(r['key'], r['ttl'])) },
  'mget' => ->(r) { { ok: true, items: client.get_multi(*r['keys']).transform_values(&item) } },
  'set' => store.('set'),
  'add' => store.('add'),
  'replace' => store.('replace'),
  'append' => join.('append'),
  'prepend' => join.('prepend'),
  'cas' => ->(r) { { ok: !!client.set_cas(r['key'], r['value'], Integer(r['cas']), r['ttl'], raw: true) } },
  'delete' => ->(r) { { ok: !!client.delete(r['key']) } },
  'incr' => ->(r) { number.(client.incr(r['key'], r['delta'])) },
  'decr' => ->(r) { number.(client.decr(r['key'], r['delta'])) },
  'touch' => ->(r) { { ok: !!client.touch(r['key'], r['ttl']) } }
}

$stdout.sync = true
puts JSON.generate(ok: true)
$stdin.each_line do |line|
  r = JSON.parse(line)
  r['value'] = Base64.decode64(r['value'] || '')
  reply =
    begin
      commands.key?(r['op']) ? commands[r['op']].(r) : { lacking: true }
    rescue StandardError => e
      { error: "#{e.class}: #{e.message}" }
    end
  puts JSON.generate(reply)
end
