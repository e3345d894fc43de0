"""Certificates for tests, made in memory."""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
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
        """The trust root of a client that trusts this certificate alone."""
        return ssl.Certificate(self.x509)

    def private(self):
        """The certificate of a client."""
        key = ssl.KeyPair(self.pkey)
        return ssl.PrivateCertificate.fromCertificateAndKeyPair(ssl.Certificate(self.x509), key)


def made(name, *hosts, by=None, is_authority=False, ends=DAY):
    """A certificate for the hosts, signed by `by` or itself, that is valid until `ends` from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer = by.certificate.subject if by else subject
    now = datetime.datetime.now(datetime.timezone.utc)
    number = x509.random_serial_number()
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), number, now - 2 * DAY, now + ends)
    if is_authority:
        builder = builder.add_extension(x509.BasicConstraints(True, None), True)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), False)
    return Made(builder.sign(by.key if by else key, hashes.SHA256()), key)
