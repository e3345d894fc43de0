"""
TLS by rustls, below Twisted's protocols of TLS. L{install} replaces L{TLSMemoryBIOProtocol.makeConnection}; programs
keep their imports.

rustls encrypts a connection of Couplet's if it supports all of the program's options: see L{_server} and L{_client}.
pyOpenSSL encrypts the others, such as those with a context of the program's own, a verification callback or a list of
ciphers; those whose protocol takes its object before the handshake; and those whose C{handshakeCompleted} needs a part
of it that L{_Session} lacks. The log names the engine once, with the reason.
"""

import functools
import os
import types
import weakref
from datetime import datetime, timezone

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import Version
from cryptography.x509.oid import ExtensionOID
from OpenSSL import SSL, _util, crypto
from twisted.internet._service_identity import DNS_ID, IPAddress_ID, VerificationError
from service_identity.exceptions import DNSMismatch, IPAddressMismatch
from twisted.internet import _newtls, _sslverify
from twisted.internet._sslverify import ClientTLSOptions, OpenSSLCertificateAuthorities, OpenSSLCertificateOptions
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from couplet_twisted import _couplet

__all__ = ["install"]

_log = Logger(namespace="couplet")

# Configurations that are remembered: programs have few.
_MOST_CONFIGURATIONS = 64

# The methods that a subclass may override to make its own context or connection.
_STEPS = ("_makeContext", "getContext", "_makeTLSConnection", "serverConnectionForTLS", "clientConnectionForTLS")

_VERSIONS = {
    0: SSL.OP_NO_TLSv1,
    1: SSL.OP_NO_TLSv1_1,
    2: SSL.OP_NO_TLSv1_2,
    3: SSL.OP_NO_TLSv1_3,
}
_KNOWN_OPTIONS = functools.reduce(
    int.__or__,
    _VERSIONS.values(),
    SSL.OP_NO_SSLv2
    | SSL.OP_NO_SSLv3
    | SSL.OP_NO_COMPRESSION
    | SSL.OP_CIPHER_SERVER_PREFERENCE
    | SSL.OP_SINGLE_DH_USE
    | SSL.OP_SINGLE_ECDH_USE
    | SSL.OP_NO_TICKET,
)

# OpenSSL's names of the failures that have no alert.
_REASONS = {
    "NothingInCommon": "no shared cipher",
    "NoApplicationProtocol": "no application protocol",
    "NotTls": "wrong version number",
    "Misbehaved": "unexpected message",
    "BadRecord": "decryption failed or bad record mac",
    "Internal": "internal error",
    "Missing": "peer did not return a certificate",
}
# The number of OpenSSL's library for TLS among its error codes, and of the first of its errors for alerts.
_LIBRARY, _FIRST_ALERT = 20, 1000


class _Unsupported(Exception):
    """
    The reason why pyOpenSSL must encrypt a connection.
    """


def _plain(certificate):
    """
    The object of C{cryptography} for a certificate, which a program may pass itself, or as pyOpenSSL's object.
    """
    return certificate.to_cryptography() if isinstance(certificate, crypto.X509) else certificate


def _pem(certificates):
    return b"".join(_plain(each).public_bytes(Encoding.PEM) for each in certificates)


def _roots(trust):
    """
    The certificates that a program trusts, in PEM.
    """
    for each in map(_plain, trust._caCerts):
        if each.version is not Version.v3:
            # The certificates that it signs may be such too, which rustls refuses.
            raise _Unsupported("a trusted certificate is of version 1 of X.509")
        if not each.not_valid_before_utc <= datetime.now(timezone.utc) <= each.not_valid_after_utc:
            raise _Unsupported("a trusted certificate is not valid at present")
        found = {extension.oid: extension.value for extension in each.extensions}
        authority, usage = found.get(ExtensionOID.BASIC_CONSTRAINTS), found.get(ExtensionOID.KEY_USAGE)
        if not (authority is None or authority.ca) or not (usage is None or usage.key_cert_sign):
            # rustls takes each trusted certificate for an authority's.
            raise _Unsupported("a trusted certificate may not sign others")
        if ExtensionOID.EXTENDED_KEY_USAGE in found:
            # OpenSSL applies it to the certificates below.
            raise _Unsupported("a trusted certificate is for certain purposes")
        if authority is not None and authority.ca and ExtensionOID.SUBJECT_ALTERNATIVE_NAME in found:
            # OpenSSL accepts it from a server too, rustls doesn't.
            raise _Unsupported("a trusted certificate is both an authority's and a server's")
    return _pem(trust._caCerts)


def _pair(options):
    """
    The chain of certificates and the key, in PEM.
    """
    if options.certificate is None:
        return None
    key = options.privateKey
    if isinstance(key, crypto.PKey):
        key = key.to_cryptography_key()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return _pem([options.certificate, *options.extraCertChain]), pem


@functools.lru_cache(_MOST_CONFIGURATIONS)
def _defaultCiphers(method, options):
    available = _sslverify._expandCipherString("ALL", method, options)
    return ":".join(cipher.fullName for cipher in _sslverify.defaultCiphers.selectCiphers(available))


def _versions(options):
    """
    The oldest and the newest minor version of TLS 1.
    """
    allowed = [minor for minor, flag in _VERSIONS.items() if not options._options & flag]
    if not allowed or allowed[0] < 2:
        raise _Unsupported("versions of TLS before 1.2 are allowed")
    return allowed[0], allowed[-1]


def _check(options):
    """
    Check that rustls supports the settings that servers and clients have in common.

    @raise _Unsupported: if it does not.
    """
    kind, plain = type(options), OpenSSLCertificateOptions
    isOwn = kind is not plain and any(getattr(kind, step, None) is not getattr(plain, step) for step in _STEPS)
    if isOwn or not vars(options).keys().isdisjoint(_STEPS):
        raise _Unsupported(f"{kind.__qualname__} makes its own contexts")
    if options._context is not None or options._contextFactory is not SSL.Context:
        raise _Unsupported("the program has taken the context")
    if options._contextForServerName is not None:
        raise _Unsupported("the program chooses a context by the server's name")
    if options.dhParameters is not None:
        raise _Unsupported("there are parameters for Diffie-Hellman")
    if options.method != SSL.TLS_METHOD or options._options & ~_KNOWN_OPTIONS or options.verifyDepth != 9:
        raise _Unsupported("there are flags for OpenSSL")
    if options._cipherString != _defaultCiphers(options.method, options._options):
        raise _Unsupported("there is a list of ciphers")


def _server(options, alpn):
    """
    The configuration of a server.
    """
    pair = _pair(options)
    if pair is None:
        raise _Unsupported("the server has no certificate")
    roots = None
    if options.verify:
        if type(options.trustRoot) is not OpenSSLCertificateAuthorities:
            raise _Unsupported("clients' certificates are verified by other means")
        roots = _roots(options.trustRoot)
    resumes = bool(options.enableSessions or options.enableSessionTickets)
    required = bool(options.requireCertificate)
    return _couplet.Tls.server(pair, roots, required, alpn, _versions(options), resumes)


def _client(options, alpn):
    """
    The configuration of a client.
    """
    roots, paths = None, None
    if type(options.trustRoot) is OpenSSLCertificateAuthorities:
        roots = _roots(options.trustRoot)
    elif type(options.trustRoot) is _sslverify.OpenSSLDefaultPaths:
        paths = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    else:
        raise _Unsupported("servers' certificates are verified by other means")
    pair = _pair(options)
    if pair is not None:
        return _couplet.Tls.client(pair, roots, alpn, _versions(options))
    return _anonymous(roots, alpn, _versions(options), paths)


@functools.lru_cache(_MOST_CONFIGURATIONS)
def _anonymous(roots, alpn, versions, paths):
    """
    The configuration of a client without a certificate, for which programs make options for each connection. Those
    that trust the system's certificates, which are read from C{paths}, share one.
    """
    return _couplet.Tls.client(None, roots, alpn, versions)


# By options, client or server, and protocols to negotiate: the configuration, or the reason why pyOpenSSL encrypts. The
# key C{_TAKEN} has the reason for further connections.
_known = weakref.WeakKeyDictionary()
_TAKEN = "taken"


def _creator(factory):
    """
    The method that L{twisted.protocols._tls_legacy} wrapped for a factory, and whether it is for clients.
    """
    function = factory._creatorCallable
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or ()))
    return cells["baseCallable"].cell_contents, cells["isClient"].cell_contents


def _asked(factory, protocol):
    """
    The configuration for a factory of TLS protocols.

    @return: The configuration, the options that it was made from, and the host that a client connects to.

    @raise _Unsupported: if pyOpenSSL must encrypt.
    """
    try:
        method, isClient = _creator(factory)
        options = method.__self__
    except (AttributeError, KeyError):
        raise _Unsupported("the program makes its own connections") from None
    host = None
    if isClient:
        if type(options) is not ClientTLSOptions:
            raise _Unsupported("the server's name is not verified")
        if options._sendServerName != options._hostnameIsDnsName:
            raise _Unsupported("the program decides whether the server's name is sent")
        host, method = options._hostnameASCII, options._createConnection
        if host.startswith("xn--"):
            raise _Unsupported("no wildcard may match the server's international name")
        if getattr(method, "__func__", None) is not OpenSSLCertificateOptions._makeTLSConnection:
            raise _Unsupported("the program makes its own connections")
        options = method.__self__
    _check(options)
    alpn = tuple(_sslverify.protosFromProtocol(protocol, options._acceptableProtocols))
    known = _known.setdefault(options, {})
    if _TAKEN in known:
        raise _Unsupported(known[_TAKEN])
    key = isClient, alpn
    if key not in known and len(known) < _MOST_CONFIGURATIONS:
        try:
            known[key] = (_client if isClient else _server)(options, alpn)
        except Exception as reason:
            # pyOpenSSL reports the error, if it is one.
            known[key] = str(reason) or type(reason).__qualname__
    configuration = known.get(key, "the protocols to negotiate change")
    if isinstance(configuration, str):
        raise _Unsupported(configuration)
    return configuration, options, host


class _Session(SSL.Connection):
    """
    The parts of L{OpenSSL.SSL.Connection} that report negotiated parameters, for programs that call
    L{TLSMemoryBIOProtocol.getHandle} once the handshake is complete. If they use another part, pyOpenSSL encrypts the
    next connections with the same options.
    """

    def __init__(self, connection, protocol, options):
        self._connection = connection
        self._options = options
        self._certificate = options.certificate
        self._data = protocol

    def _get(self, name):
        negotiated = self._connection._negotiated()
        return None if negotiated is None else getattr(negotiated, name)

    def __getattr__(self, name):
        self._lack(name)
        raise AttributeError(f"rustls has no {name!r}, see couplet_twisted.install(tls=...)")

    def _lack(self, name):
        """
        Have pyOpenSSL encrypt further connections: the program needs a part of its object.
        """
        reason = f"the program uses {name!r} of pyOpenSSL's object"
        _known.setdefault(self._options, {})[_TAKEN] = reason
        _warn(f"pyOpenSSL will encrypt the next connections with these options, instead of rustls: {reason}")

    def get_finished(self):
        """
        Return L{None}, which means for pyOpenSSL that the handshake is not complete.
        """
        self._lack("get_finished")

    def get_peer_finished(self):
        """
        Return L{None}, as L{get_finished}.
        """
        self._lack("get_peer_finished")

    def send(self, *rest):
        raise SSL.Error([("SSL routines", "", "protocol is shutdown")])

    def get_app_data(self):
        return self._data

    def set_app_data(self, data):
        self._data = data

    def get_alpn_proto_negotiated(self):
        return self._get("alpn") or b""

    def get_certificate(self, *, as_cryptography=False):
        if self._certificate is None:
            return None
        found = _plain(self._certificate)
        return found if as_cryptography else crypto.X509.from_cryptography(found)

    def get_peer_certificate(self, *, as_cryptography=False):
        chain = self.get_peer_cert_chain(as_cryptography=as_cryptography)
        return chain[0] if chain else None

    def get_peer_cert_chain(self, *, as_cryptography=False):
        found = [crypto.load_certificate(crypto.FILETYPE_ASN1, each) for each in self._get("certificates") or ()]
        if as_cryptography:
            found = [each.to_cryptography() for each in found]
        return found or None

    def get_servername(self):
        name = self._get("server_name")
        return None if name is None else name.encode()

    def get_cipher_name(self):
        name = self._get("cipher")
        if name is None or name.startswith("TLS13_"):
            return name and name.replace("TLS13_", "TLS_")
        # OpenSSL's names of the suites of TLS 1.2.
        exchange, cipher = name.removeprefix("TLS_").split("_WITH_")
        cipher = cipher.replace("AES_", "AES").removesuffix("_SHA256" if "CHACHA" in cipher else "")
        return f"{exchange}_{cipher}".replace("_", "-")

    def get_cipher_bits(self):
        name = self._get("cipher")
        return name and (128 if "AES_128" in name else 256)

    def get_cipher_version(self):
        return self._get("version")

    def get_protocol_version_name(self):
        return self._get("version") or "TLSv1.3"

    def get_protocol_version(self):
        return 0x0303 if self._get("version") == "TLSv1.2" else 0x0304


def _lacking(name):
    """
    A property that raises L{AttributeError}, so that C{hasattr} is false.
    """
    return property(lambda session: session.__getattr__(name))


# The parts of pyOpenSSL's object that L{_Session} lacks.
_LACKED = {"get_finished", "get_peer_finished"}
for _name in vars(SSL.Connection):
    if not _name.startswith("_") and _name not in vars(_Session):
        setattr(_Session, _name, _lacking(_name))
        _LACKED.add(_name)
# Other objects have methods with names such as C{send}.
_REVEALING = {name for name in _LACKED if "_" in name}

_EMPTY_CELL = types.CellType()
# How many calls deep functions are examined.
_DEEPEST = 4


def _called(function, owner, names):
    """
    The functions that a function may call: functions of modules and closures that it knows, and methods of C{owner}.
    """
    scope = function.__globals__
    places = [vars(kind) for kind in owner.__mro__] + [scope]
    places += [vars(scope[name]) for name in names if isinstance(scope.get(name), types.ModuleType)]
    found = [cell.cell_contents for cell in function.__closure__ or () if cell != _EMPTY_CELL]
    found += [place[name] for place in places for name in names & place.keys()]
    return [each for each in found if isinstance(each, types.FunctionType)]


def _revealed(function, owner):
    """
    The parts of pyOpenSSL's object that are named in a function, or in functions that it may call.
    """
    found, seen, functions = set(), set(), [function]
    for _ in range(_DEEPEST):
        fresh = {each for each in functions if each not in seen}
        seen, functions = seen | fresh, []
        for each in fresh:
            names, codes = set(), [each.__code__]
            for code in codes:
                names.update(code.co_names)
                codes += [const for const in code.co_consts if isinstance(const, types.CodeType)]
            found |= names & _REVEALING
            functions += _called(each, owner, names)
    return found


@functools.lru_cache(_MOST_CONFIGURATIONS)
def _neededByListener(kind):
    """
    The parts that the C{handshakeCompleted} of a class needs, in a text.
    """
    completed = getattr(kind, "handshakeCompleted", None)
    return ", ".join(sorted(_revealed(completed, kind))) if isinstance(completed, types.FunctionType) else ""


def _checkListener(protocol):
    """
    Check that a protocol, or the one that it wraps, needs pyOpenSSL's object only before the handshake or not at all.

    @raise _Unsupported: if it needs the object when the handshake is complete.
    """
    while IHandshakeListener.providedBy(protocol):
        needed = _neededByListener(type(protocol))
        if needed:
            kind = type(protocol).__qualname__
            raise _Unsupported(f"{kind}.handshakeCompleted needs {needed} of pyOpenSSL's object")
        # An endpoint's wrapper, or another one of a program's.
        protocol = getattr(protocol, "_wrappedProtocol", None) or getattr(protocol, "wrappedProtocol", None)


def _dropped(data):
    """
    C{write} of a connection that is closed.
    """


def _reason(kind, alert, text, host):
    """
    The exception that pyOpenSSL, or Twisted's verification of names, has for a failure.
    """
    if kind == "WrongName":
        isName = not (_sslverify.isIPAddress(host) or _sslverify.isIPv6Address(host))
        mismatch = DNSMismatch(DNS_ID(host)) if isName else IPAddressMismatch(IPAddress_ID(host))
        return VerificationError(errors=[mismatch])
    if kind == "NothingInCommon" and "no version of TLS" in text:
        reason = "unsupported protocol"
    elif alert is None:
        # The rest are about the peer's certificate.
        reason = _REASONS.get(kind, "certificate verify failed")
    else:
        reason = _util.text(_util.lib.ERR_reason_error_string(_LIBRARY << 23 | _FIRST_ALERT + alert))
    return SSL.Error([("SSL routines", "", reason)])


class _Encrypted(BufferingTLSTransport):
    """
    A protocol of TLS whose connection encrypts: the protocol writes and receives plaintext.

    @ivar _connection: The connection.

    @ivar _host: The host that a client connects to.

    @ivar _session: The L{_Session}.

    @ivar _twisted: The class and the attributes with which Twisted's code encrypts, until the handshake is complete.

    @ivar _isMaking: Whether C{makeConnection} is running.
    """

    tls_engine = "rustls"
    _isMaking = True

    @property
    def _tlsConnection(self):
        """
        pyOpenSSL's object, if the program asks before the loop has begun the handshake; otherwise a L{_Session}.
        """
        if self._twisted is not None:
            unsent = self._connection._cancelTLS()
            if unsent is not None:
                return self._useOpenSSL(unsent)
        return self._session

    @_tlsConnection.setter
    def _tlsConnection(self, session):
        self._session = session

    def _useOpenSSL(self, unsent):
        """
        Have Twisted's code encrypt this connection after all.

        @param unsent: The plaintext that was written so far.
        """
        kind = type(self.wrappedProtocol).__qualname__
        _warn(f"pyOpenSSL encrypts connections of {kind}, instead of rustls: it takes pyOpenSSL's object")
        (self.__class__, attributes), isMaking = self._twisted, self._isMaking
        for name in ("write", "_connection", "_host", "_session", "_twisted", "_isMaking"):
            vars(self).pop(name, None)
        vars(self).update(attributes)
        self._tlsConnection = connection = self.factory._creatorCallable(self)
        self._appSendBuffer = [unsent] if unsent else []
        if not isMaking:
            self._checkHandshakeStatus()
        return connection

    def getPeerCertificate(self):
        return self._session.get_peer_certificate()

    @property
    def negotiatedProtocol(self):
        return (self._session and self._session.get_alpn_proto_negotiated()) or None

    def _opened(self):
        self._handshakeDone = True
        self._twisted = None
        if IHandshakeListener.providedBy(self.wrappedProtocol):
            self.wrappedProtocol.handshakeCompleted()
        if self.disconnecting and self._producer is None:
            self._shutdownTLS()

    def _peerClosed(self):
        # Output written before is sent first.
        self.disconnecting = True
        self._shutdownTLS()

    def _failed(self, kind, alert, text):
        _log.debug("TLS failed: {text}", text=text)
        if self._reason is None:
            self._reason = Failure(_reason(kind, alert, text, self._host))

    def _shutdownTLS(self):
        self.write = _dropped
        _couplet.Connection.loseConnection(self._connection)

    def dataReceived(self, data):
        self.wrappedProtocol.dataReceived(data)

    def writeSequence(self, sequence):
        self.write(b"".join(sequence))

    def loseConnection(self):
        if self.disconnecting or not self.connected:
            return
        # As in Twisted: the peer may never complete the handshake.
        if not self._handshakeDone and not self._connection._buffered:
            self.abortConnection()
        self.disconnecting = True
        if self._producer is None:
            self.write = _dropped
            if self._handshakeDone:
                self._shutdownTLS()

    def abortConnection(self):
        self._aborted = True
        self.disconnecting = True
        self.write = _dropped
        self.transport.abortConnection()

    def connectionLost(self, reason):
        self._lostTLSConnection = True
        if not reason.check(ConnectionDone):
            # As with OpenSSL, every abrupt end has the same error.
            reason = Failure(CONNECTION_LOST)
        reason, self._reason = self._reason or reason, None
        self.connected = False
        self.write = _dropped
        self._twisted = None
        ProtocolWrapper.connectionLost(self, reason)
        self._session = None


def _tell(isOurs, reason):
    """
    Log the engine, and the reason for it, once.
    """
    if (isOurs, reason) not in _told and len(_told) < _MOST_CONFIGURATIONS:
        _told.add((isOurs, reason))
        if isOurs:
            _log.info("rustls encrypts TLS connections")
        else:
            _log.info("pyOpenSSL encrypts TLS connections: {reason}", reason=reason)


def _warn(text):
    """
    Log a warning once.
    """
    if text not in _told and len(_told) < _MOST_CONFIGURATIONS:
        _told.add(text)
        _log.warn("{text}", text=text)


_told = set()


def _start(protocol, transport):
    """
    Have rustls encrypt a connection, for a protocol of TLS.

    @raise _Unsupported: if pyOpenSSL must.
    """
    connection = transport._connection if type(transport) is _newtls._BypassTLS else transport
    if not isinstance(connection, _couplet.Connection):
        raise _Unsupported("the transport is not Couplet's")
    if type(protocol) not in (BufferingTLSTransport, TLSMemoryBIOProtocol):
        raise _Unsupported(f"{type(protocol).__qualname__} encrypts")
    _checkListener(protocol.wrappedProtocol)
    try:
        configuration, options, host = _asked(protocol.factory, protocol)
    except AttributeError as error:
        # An object that only resembles Twisted's.
        raise _Unsupported(str(error)) from None
    try:
        if not connection._startTLS(configuration, host or "", protocol):
            raise _Unsupported("the connection is encrypted already")
    except ValueError as error:
        raise _Unsupported(str(error)) from None
    attributes = {name: vars(protocol)[name] for name in ("write", "_aggregator") if name in vars(protocol)}
    protocol._twisted = type(protocol), attributes
    protocol.__class__ = _Encrypted
    protocol._connection = connection
    protocol._host = host
    protocol._session = _Session(connection, protocol, options)


def _makeConnection(self, transport):
    """
    @see: L{TLSMemoryBIOProtocol.makeConnection}
    """
    try:
        _start(self, transport)
    except _Unsupported as reason:
        _tell(False, str(reason))
        return _twistedMakeConnection(self, transport)
    _tell(True, None)
    self._appSendBuffer = ()
    self._aggregator = None
    self.write = _couplet.Connection._writePlain.__get__(self._connection)
    if self._connectWrapped:
        ProtocolWrapper.makeConnection(self, transport)
    else:
        Protocol.makeConnection(self, transport)
        self.factory.registerProtocol(self)
    self._isMaking = False
    if type(self) is not _Encrypted:
        # The program took pyOpenSSL's object.
        del self._isMaking
        self._checkHandshakeStatus()


_twistedMakeConnection = TLSMemoryBIOProtocol.makeConnection


def install():
    """
    Have rustls encrypt the connections whose options it supports.
    """
    TLSMemoryBIOProtocol.makeConnection = _makeConnection
    TLSMemoryBIOProtocol.tls_engine = "pyOpenSSL"
