"""Certificates of peers: rustls accepts and refuses the same as OpenSSL, apart from the differences listed here, which
the README names."""

import functools
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier
from OpenSSL import SSL
from twisted.internet import defer, protocol, ssl

from kit import certificates
from kit.cases import Cases, only_subject
from kit.certificates import DAY, Made
from test_tls import linked

USAGES = "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign"
# Most certificates share a key.
certificate = functools.partial(certificates.certificate, key=ec.generate_private_key(ec.SECP256R1()))


def usage(*on):
    names = USAGES.split()
    return x509.KeyUsage(*(name in on for name in names), encipher_only=False, decipher_only=False), True


def names(*hosts):
    kinds = [x509.IPAddress(host) if not isinstance(host, str) else x509.DNSName(host) for host in hosts]
    return x509.SubjectAlternativeName(kinds), False


def purposes(*which):
    return x509.ExtendedKeyUsage(which), False


def authority(is_one=True, length=None):
    return x509.BasicConstraints(is_one, length), True


def signed(made, by, digest):
    """The certificate with another signature."""
    made.x509.sign(by.pkey, digest)
    return Made(made.x509.to_cryptography(), made.key)


def root(*extensions, **more):
    return certificate("root", *(extensions or [authority(), usage("key_cert_sign", "crl_sign")]), **more)


ROOT = root(key=ec.generate_private_key(ec.SECP256R1()))
HOST = names("localhost")
SERVES, CONNECTS = purposes(ExtendedKeyUsageOID.SERVER_AUTH), purposes(ExtendedKeyUsageOID.CLIENT_AUTH)
SIGNS = usage("digital_signature")
UNKNOWN = x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00")


def leaf(*extensions, **more):
    return [certificate("leaf", *extensions, **{"by": ROOT, **more})], ROOT


def below(middle, top=ROOT, **more):
    """A leaf below an authority, which is sent along."""
    return [certificate("leaf", HOST, by=middle, **more), middle], top


def middle(*extensions, **more):
    return certificate("middle", *extensions, **{"by": ROOT, "key": ec.generate_private_key(ec.SECP256R1()), **more})


def permitted(*hosts, excluded=None):
    subtrees = [[x509.DNSName(host) for host in some] or None for some in (hosts, excluded or ())]
    return x509.NameConstraints(*subtrees), True


# The chain that a peer sends, its own certificate first, and the authority that the other end trusts.
CASES = {
    "a plain leaf": leaf(HOST),
    "a leaf with all usual extensions": leaf(HOST, authority(False), SIGNS, purposes(*SERVES[0], *CONNECTS[0])),
    "flags: leaf with CA:TRUE": leaf(HOST, authority()),
    "flags: leaf with CA:TRUE and keyCertSign": leaf(HOST, authority(), usage("digital_signature", "key_cert_sign")),
    "flags: trusted leaf, self-signed": None,
    "flags: trusted leaf, self-signed, CA:TRUE": None,
    "flags: critical unknown extension": leaf(HOST, (UNKNOWN, True)),
    "flags: unknown extension": leaf(HOST, (UNKNOWN, False)),
    "time: expired": leaf(HOST, ends=-DAY),
    "time: not yet valid": leaf(HOST, starts=DAY, ends=2 * DAY),
    "purpose: server": leaf(HOST, SERVES),
    "purpose: client": leaf(HOST, CONNECTS),
    "purpose: both": leaf(HOST, purposes(*SERVES[0], *CONNECTS[0])),
    "purpose: any": leaf(HOST, purposes(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)),
    "purpose: code": leaf(HOST, purposes(ExtendedKeyUsageOID.CODE_SIGNING)),
    "name: wildcard of a domain": leaf(names("*.localhost")),
    "name: several": leaf(names("elsewhere", "localhost")),
    "name: another": leaf(names("elsewhere")),
    "name: address": leaf(names(ipaddress.ip_address("127.0.0.1"))),
    "name: none": leaf(),
    "name: upper case": leaf(names("LOCALHOST")),
    "name: trailing dot": leaf(names("localhost.")),
    "name: part of a wildcard": leaf(names("local*")),
    "name: no subject": [[certificate("", HOST, by=ROOT)], ROOT],
    **{
        f"key: {curve.name}": leaf(HOST, key=ec.generate_private_key(curve))
        for curve in (ec.SECP384R1(), ec.SECP521R1(), ec.SECP256K1())
    },
    **{
        f"key: RSA of {bits} bits": leaf(HOST, key=rsa.generate_private_key(65537, bits)) for bits in (1024, 2048, 3072)
    },
    **{
        f"signature: {digest}": ([signed(leaf(HOST)[0][0], ROOT, digest)], ROOT) for digest in ("sha1", "sha384", "sha512")
    },
    "key: Ed25519": leaf(HOST, key=ed25519.Ed25519PrivateKey.generate()),
    "flags: leaf with CA:TRUE and a length": leaf(HOST, authority(length=0)),
    "flags: critical names": leaf((HOST[0], True)),
    **{f"usage: {name}": leaf(HOST, usage(name)) for name in USAGES.split()},
    "usage: not critical": leaf(HOST, (SIGNS[0], False)),
    "usage: keyEncipherment and keyAgreement": leaf(HOST, usage("key_encipherment", "key_agreement")),
    "purpose: server, critical": leaf(HOST, (SERVES[0], True)),
    "purpose: client, critical": leaf(HOST, (CONNECTS[0], True)),
    "purpose: code, critical": leaf(HOST, (purposes(ExtendedKeyUsageOID.CODE_SIGNING)[0], True)),
    "purpose: any and code": leaf(HOST, purposes(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE, ExtendedKeyUsageOID.CODE_SIGNING)),
    "issuer: for any purpose": below(middle(authority(), purposes(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE))),
    "issuer: with a SHA-1 signature": below(signed(middle(authority()), ROOT, "sha1")),
    "issuer: RSA of 1024 bits": below(middle(authority(), key=rsa.generate_private_key(65537, 1024))),
    "issuer: not yet valid": below(middle(authority(), starts=DAY, ends=2 * DAY)),
    "issuer: an authority": below(middle(authority(), usage("key_cert_sign"))),
    "issuer: an authority without usages": below(middle(authority())),
    "issuer: an authority that may not sign": below(middle(authority(), usage("crl_sign"))),
    "issuer: CA:FALSE": below(middle(authority(False))),
    "issuer: no basic constraints": below(middle()),
    "issuer: expired": below(middle(authority(), ends=-DAY)),
    "issuer: length 0": below(middle(authority(length=0))),
    "issuer: for servers": below(middle(authority(), SERVES)),
    "issuer: for clients": below(middle(authority(), CONNECTS)),
    "issuer: critical unknown extension": below(middle(authority(), (UNKNOWN, True))),
    "issuer: its names permitted": below(middle(authority(), permitted("localhost"))),
    "issuer: other names permitted": below(middle(authority(), permitted("elsewhere"))),
    "issuer: its names excluded": below(middle(authority(), permitted(excluded=["localhost"]))),
    "issuer: missing": ([below(middle(authority()))[0][0]], ROOT),
    "issuer: untrusted": below(middle(authority()), root(key=ec.generate_private_key(ec.SECP256R1()))),
}


# By host: the names of a certificate, or its common name only.
_ADDRESS = ipaddress.ip_address("127.0.0.1")
_NAMED = {
    "localhost": {"common name only": "localhost"},
    "a.example.com": {
        "the name": names("a.example.com"),
        "wildcard": names("*.example.com"),
        "wildcard of two labels": names("*.*.com"),
        "wildcard above": names("*.com"),
        "partial wildcard": names("a*.example.com"),
        "wildcard inside": names("a.*.com"),
        "only a wildcard": names("*"),
        "the parent": names("example.com"),
        "common name only": "a.example.com",
    },
    "a.b.example.com": {"wildcard": names("*.example.com")},
    "b\u00fccher.example.com": {
        "encoded": names("xn--bcher-kva.example.com"),
        "wildcard": names("*.example.com"),
        "wildcard of an encoded label": names("xn--*.example.com"),
        "another": names("bucher.example.com"),
    },
    "127.0.0.1": {
        "address": names(_ADDRESS),
        "another address": names(ipaddress.ip_address("127.0.0.2")),
        "address as a name": names("127.0.0.1"),
        "wildcard": names("*.0.0.1"),
        "common name only": "127.0.0.1",
    },
    "::1": {"address": names(ipaddress.ip_address("::1")), "IPv4": names(_ADDRESS)},
}
# The hosts to which clients connect, if not localhost.
HOSTS = {}
for _host, _kinds in _NAMED.items():
    for _kind, _name in _kinds.items():
        _made = certificate(_name, by=ROOT) if isinstance(_name, str) else certificate("leaf", _name, by=ROOT)
        CASES[f"name of {_host!a}: {_kind}"], HOSTS[f"name of {_host!a}: {_kind}"] = ([_made], ROOT), _host


def chains(path_lengths):
    for limit in path_lengths:
        first = middle(authority(length=limit))
        second = certificate("second", authority(), by=first, key=ec.generate_private_key(ec.SECP256R1()))
        yield f"issuer: two below length {limit}", (
            [certificate("leaf", HOST, by=second), second, first],
            ROOT,
        )


CASES |= dict(chains([None, 0, 1]))
for _name, _extensions in {"": [HOST], ", CA:TRUE": [HOST, authority()]}.items():
    _own = certificate("own", *_extensions)
    CASES[f"flags: trusted leaf, self-signed{_name}"] = [_own], _own
# The authority that is trusted.
for _name, _extensions in {
    "without usages": [authority()],
    "that may not sign": [authority(), usage("crl_sign")],
    "of length 0": [authority(length=0), usage("key_cert_sign")],
    "with CA:FALSE": [authority(False)],
    "for clients": [authority(), usage("key_cert_sign"), CONNECTS],
}.items():
    _root = root(*_extensions, key=ec.generate_private_key(ec.SECP256R1()))
    CASES[f"root: {_name}"] = [certificate("leaf", HOST, by=_root)], _root
_expired = root(key=ec.generate_private_key(ec.SECP256R1()), ends=-DAY)
CASES["root: expired"] = [certificate("leaf", HOST, by=_expired)], _expired


class Ends(protocol.Protocol):
    """An end of a connection, and the outcome of its handshake."""

    def __init__(self):
        self.outcome = defer.Deferred()

    def connectionMade(self):
        self.transport.write(b"x")

    def finish(self, outcome):
        if not self.outcome.called:
            self.outcome.callback(outcome)

    def dataReceived(self, data):
        self.finish("accepted")

    def connectionLost(self, reason):
        self.finish("refused")


async def outcomes(case, pair):
    """The outcome at the end that verifies."""
    server, client = await linked(case, pair, Ends(), Ends())
    both = [await server.outcome, await client.outcome]
    for each in (server, client):
        if each.transport.connected:
            each.transport.abortConnection()
    return both


# Peers' certificates about which rustls and OpenSSL differ. The README names these differences.
AUTHORITIES = [name for name in CASES if name.startswith("flags: leaf with CA:TRUE")]
# Twisted logs an error of its verification of names, and accepts the server.
SERVERS = AUTHORITIES + ["name: none", "name: part of a wildcard", "name: wildcard of a domain"]
SERVERS += [name for name in HOSTS if name.endswith("common name only")]
_KINDS = "only a wildcard", "wildcard above", "wildcard inside", "wildcard of two labels"
SERVERS += [f"name of 'a.example.com': {kind}" for kind in _KINDS]
SERVERS += [f"name of '127.0.0.1': {kind}" for kind in ("address as a name", "wildcard")]
CLIENTS = AUTHORITIES


class Certificates(Cases):
    """Which certificates are accepted."""

    async def test_of_servers(case):
        for name in CASES:
            if name not in SERVERS:
                case.say(name, await server(case, name))

    async def test_of_clients(case):
        for name in CASES:
            if name not in CLIENTS:
                case.say(name, await client(case, name))

    @only_subject
    async def test_those_that_only_twisted_accepts(case):
        for name in SERVERS:
            assert await server(case, name) == "refused", name
        for name in CLIENTS:
            assert await client(case, name) == "refused", name


async def server(case, name):
    """The outcome for a server at its client."""
    chain, trusted = CASES[name]
    theirs = ssl.optionsForClientTLS(HOSTS.get(name, "localhost"), trusted.trust())
    return (await outcomes(case, (Shows(chain), theirs)))[1]


async def client(case, name):
    """The outcome for a client at its server."""
    chain, trusted = CASES[name]
    ours = certificate("server", HOST, by=ROOT)
    asking = ours.options(verify=True, caCerts=[trusted.x509], requireCertificate=True)
    return (await outcomes(case, (asking, Shows(chain))))[0]


class Shows(ssl.ClientContextFactory):
    """An end that shows its chain, by pyOpenSSL, and verifies nothing. Weak keys and signatures are no obstacle."""

    def __init__(self, chain):
        self.context = context = SSL.Context(SSL.TLS_METHOD)
        context.set_cipher_list(b"ALL:@SECLEVEL=0")
        context.use_certificate(chain[0].x509)
        for each in chain[1:]:
            context.add_extra_chain_cert(each.x509)
        context.use_privatekey(chain[0].pkey)

    def getContext(self):
        return self.context
