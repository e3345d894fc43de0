"""Certificates for tests, made in memory."""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from OpenSSL import crypto
from twisted.internet import ssl

DAY = datetime.timedelta(days=1)


class Made:
    """A certificate and its key."""

    def __init__(self, certificate, key):
        self.certificate, self.key = certificate, key
        self.x509 = crypto.X509.from_cryptography(certificate)
        self.pkey = crypto.PKey.from_cryptography_key(key)

    def options(self, **more):
        """The options of a server with this certificate."""
        return ssl.CertificateOptions(certificate=self.x509, privateKey=self.pkey, **more)

    def trust(self):
        """The trust root of a client that trusts only this certificate."""
        return ssl.Certificate(self.x509)

    def private(self):
        """The certificate of a client."""
        key = ssl.KeyPair(self.pkey)
        return ssl.PrivateCertificate.fromCertificateAndKeyPair(ssl.Certificate(self.x509), key)


def certificate(name, *extensions, by=None, key=None, starts=-2 * DAY, ends=DAY):
    """A certificate with these extensions, signed by `by` or itself, that is valid from `starts` until `ends` from now."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)] if name else [])
    issuer = by.certificate.subject if by else subject
    now = datetime.datetime.now(datetime.timezone.utc)
    number = x509.random_serial_number()
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), number, now + starts, now + ends)
    for extension, is_critical in extensions:
        builder = builder.add_extension(extension, is_critical)
    signer = by.key if by else key
    hashed = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return Made(builder.sign(signer, hashed), key)


def made(name, *hosts, by=None, is_authority=False, ends=DAY):
    """A certificate for the hosts."""
    extensions = [(x509.BasicConstraints(True, None), True)] if is_authority else []
    if hosts:
        extensions.append((x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), False))
    return certificate(name, *extensions, by=by, ends=ends)
