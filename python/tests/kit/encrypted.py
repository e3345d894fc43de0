"""Has rustls encrypt every connection of Couplet's, whatever contexts a test makes.

Twisted's tests of TLS use certificates and clients that rustls would leave to pyOpenSSL. With this, both ends of their
connections are rustls's, with a certificate of ours."""

from twisted.internet import ssl

from kit import certificates


def install():
    """Replaces the configurations of programs."""
    from couplet_twisted import _tls

    ours = certificates.made("localhost", "localhost")
    server = ours.options()
    client = ssl.optionsForClientTLS("localhost", ours.trust())._createConnection.__self__

    def asked(factory, protocol):
        # A context of the test may raise an error.
        factory._creatorCallable(protocol)
        _, is_client = _tls._creator(factory)
        if is_client:
            return _tls._client(client, ()), client, "localhost"
        return _tls._server(server, ()), server, None

    _tls._asked = asked
    _tls.install()
