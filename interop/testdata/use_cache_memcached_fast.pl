# The protocol is that of driver.py.
use strict;
use warnings;
use Cache::Memcached::Fast;
use Encode qw(encode_utf8);
use JSON::PP;
use MIME::Base64;

my $config = decode_json($ARGV[0]);
my @servers = map { {address => $_->{path} || "$_->{host}:$_->{port}", weight => $_->{weight}} } @{$config->{servers}};
my $client = Cache::Memcached::Fast->new({servers => \@servers, connect_timeout => 10, io_timeout => 10});

# The library answers true, false, or undef for an error.
sub done { defined $_[0] ? {ok => $_[0] ? JSON::PP::true : JSON::PP::false} : {error => 'undef'} }
sub item { {value => encode_base64($_[0], '')} }
sub hit { defined $_[0] ? {ok => JSON::PP::true, cas => $_[1] // '', %{item($_[0])}} : {ok => JSON::PP::false} }
sub number { $_[0] ? {ok => JSON::PP::true, number => $_[0] + 0} : done($_[0]) }

my %commands = (
    get => sub { hit($client->get($_[0]{key})) },
    gets => sub { my $found = $client->gets($_[0]{key}); hit($found ? ($found->[1], "$found->[0]") : undef) },
    gat => sub { hit($client->gat($_[0]{ttl}, $_[0]{key})) },
    mget => sub {
        my $found = $client->get_multi(@{$_[0]{keys}});
        return {ok => JSON::PP::true, items => {map { $_ => item($found->{$_}) } keys %$found}};
    },
    set => sub { done($client->set($_[0]{key}, $_[0]{value}, $_[0]{ttl})) },
    add => sub { done($client->add($_[0]{key}, $_[0]{value}, $_[0]{ttl})) },
    replace => sub { done($client->replace($_[0]{key}, $_[0]{value}, $_[0]{ttl})) },
    append => sub { done($client->append($_[0]{key}, $_[0]{value})) },
    prepend => sub { done($client->prepend($_[0]{key}, $_[0]{value})) },
    cas => sub { done($client->cas($_[0]{key}, $_[0]{cas}, $_[0]{value}, $_[0]{ttl})) },
    delete => sub { done($client->delete($_[0]{key})) },
    incr => sub { number($client->incr($_[0]{key}, $_[0]{delta})) },
    decr => sub { number($client->decr($_[0]{key}, $_[0]{delta})) },
    touch => sub { done($client->touch($_[0]{key}, $_[0]{ttl})) },
);

$| = 1;
print encode_json({ok => JSON::PP::true}), "\n";
while (my $line = <STDIN>) {
    # JSON::PP takes a second for a string of a megabyte.
    my $value = $line =~ s/"value":"([^"]*)"/"value":""/ ? decode_base64($1) : '';
    my $r = decode_json($line);
    $r->{value} = $value;
    $_ = encode_utf8($_) for $r->{key}, @{$r->{keys} || []};
    my $do = $commands{$r->{op}};
    print encode_json($do ? $do->($r) : {lacking => JSON::PP::true}), "\n";
}
