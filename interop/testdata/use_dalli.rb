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
commands = {
  'get' => ->(r) { hit.(client.get(r['key'])) },
  'mget' => ->(r) { { ok: true, items: client.get_multi(*r['keys']).transform_values(&item) } },
  'set' => ->(r) { { ok: !!client.set(r['key'], r['value'], r['ttl'], raw: true) } },
  'delete' => ->(r) { { ok: !!client.delete(r['key']) } }
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
