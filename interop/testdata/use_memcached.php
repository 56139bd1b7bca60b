<?php
// The protocol is that of driver.py.
$config = json_decode($argv[1]);
$client = new Memcached();
$client->setOption(Memcached::OPT_COMPRESSION, false);
foreach ($config->options ?? [] as $name => $value) {
    $client->setOption(constant("Memcached::OPT_$name"), $value);
}
// Not addServer, which takes a socket to have port 11211 and so makes other points.
$client->addServers(array_map(fn ($s) => [$s->path ?: $s->host, $s->port, $s->weight], $config->servers));

// The extension keeps the lower half of the flags to itself.
const FLAGS_SHIFT = 16;

function item($found) {
    return ['value' => base64_encode($found['value']), 'flags' => $found['flags'] << FLAGS_SHIFT];
}

$get = function ($c, $r) {
    $found = $c->get($r->key, null, Memcached::GET_EXTENDED);
    return $found ? item($found) + ['cas' => (string)$found['cas']] : [];
};
$commands = [
    'get' => $get,
    'gets' => $get,
    'mget' => fn ($c, $r) => ['items' => (object)array_map('item', $c->getMulti($r->keys, Memcached::GET_EXTENDED))],
    'set' => fn ($c, $r) => $c->set($r->key, $r->value, $r->ttl),
    'add' => fn ($c, $r) => $c->add($r->key, $r->value, $r->ttl),
    'replace' => fn ($c, $r) => $c->replace($r->key, $r->value, $r->ttl),
    'append' => fn ($c, $r) => $c->append($r->key, $r->value),
    'prepend' => fn ($c, $r) => $c->prepend($r->key, $r->value),
    'cas' => fn ($c, $r) => $c->cas($r->cas, $r->key, $r->value, $r->ttl),
    'delete' => fn ($c, $r) => $c->delete($r->key),
    'incr' => fn ($c, $r) => ['number' => (int)$c->increment($r->key, $r->delta)],
    'decr' => fn ($c, $r) => ['number' => (int)$c->decrement($r->key, $r->delta)],
    'touch' => fn ($c, $r) => $c->touch($r->key, $r->ttl),
];
$refused = [Memcached::RES_NOTFOUND, Memcached::RES_NOTSTORED, Memcached::RES_DATA_EXISTS];

function answer($reply) {
    echo json_encode($reply), "\n";
}

answer(['ok' => true]);
while (($line = fgets(STDIN)) !== false) {
    $r = json_decode($line);
    if (!isset($commands[$r->op])) {
        answer(['lacking' => true]);
        continue;
    }
    $r->value = base64_decode($r->value ?? '');
    $client->setOption(Memcached::OPT_USER_FLAGS, $r->flags >> FLAGS_SHIFT);
    $got = $commands[$r->op]($client, $r);
    $reply = is_array($got) ? $got : [];
    $code = $client->getResultCode();
    if ($code === Memcached::RES_SUCCESS) {
        $reply['ok'] = true;
    } elseif (in_array($code, $refused)) {
        $reply = ['ok' => false];
    } else {
        $reply = ['error' => $client->getResultMessage()];
    }
    answer($reply);
}
