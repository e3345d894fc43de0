"""HTTP/2 for clients: requests and responses in memory, frame by frame."""

import gc
import io
import unittest
import weakref

from twisted.internet import defer, error, task
from twisted.python.failure import Failure
from twisted.web import _newclient, client
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH

from kit.cases import Cases, only_subject
from kit.client2 import (
    DATA,
    GOAWAY,
    HEADERS,
    NOT_FOUND,
    OK,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Body,
    Reader,
    Wire,
    asked,
    literal,
    read,
    respond,
    update,
    uploading,
)
from kit.web2 import frame, frames
from test_web import python

MIB = 1024 * 1024
NO_ERROR, INTERNAL_ERROR, REFUSED_STREAM = (code.to_bytes(4) for code in (0, 2, 7))


def reset(stream, code):
    return frame(RST_STREAM, 0, stream, code)


def failure(result, kind, *reasons):
    """Asserts that a result is a failure of this exact class with these reasons."""
    assert isinstance(result, Failure) and result.type is kind, result
    seen = tuple(reason.type for reason in getattr(result.value, "reasons", ()))
    assert seen == reasons, seen


def raises(kind, call, *arguments):
    """Asserts that a call raises this exception."""
    try:
        call(*arguments)
    except kind:
        return
    raise AssertionError(f"{call} does not raise {kind}")


def code_of(result):
    """The code of a reset among a failure's reasons."""
    return result.value.reasons[0].value.code


class Requests(Cases, by=only_subject):
    """The frames of requests, and the responses of their answers, in memory."""

    async def test_a_connection_begins_with_its_preface_and_settings(case):
        assert Wire().pool.streamWindow == 256 * 1024
        wire = Wire(maxConcurrentStreams=10, streamWindow=100_000)
        data = wire.transport.value()
        assert data.startswith(PREFACE)
        seen = frames(data.removeprefix(PREFACE))
        assert [each[0] for each in seen] == [SETTINGS, WINDOW_UPDATE]
        values = {seen[0][3][at : at + 2]: seen[0][3][at + 2 : at + 6] for at in range(0, len(seen[0][3]), 6)}
        assert values[b"\0\2"] == bytes(4), "pushes are refused"
        assert int.from_bytes(values[b"\0\4"]) == 100_000
        assert int.from_bytes(seen[1][3]) == 10 * 100_000 - 65_535

    async def test_a_request_is_a_head_without_the_fields_of_connections(case):
        from hpack import Decoder

        wire = Wire().hello()
        more = {"Connection": [b"close"], "TE": [b"gzip"], "X-A": [b"b", b"c"], "Content-Length": [b"99"]}
        wire.request(b"POST", b"/a?b=c", **more)
        wire.request(b"GET", b"/", Accept=[b"text/html"])
        first, second = wire.sent()
        assert first[:3] == (HEADERS, 5, 1) and second[:3] == (HEADERS, 5, 3)
        decoder = Decoder()
        assert decoder.decode(first[3], raw=True) == [
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":authority", b"a.example"),
            (b":path", b"/a?b=c"),
            (b"content-length", b"0"),
            (b"x-a", b"b"),
            (b"x-a", b"c"),
        ]
        assert decoder.decode(second[3], raw=True)[3:] == [(b":path", b"/"), (b"accept", b"text/html")]

    async def test_a_response_has_the_parts_that_twisteds_have(case):
        wire = Wire().hello()
        wire.request(b"GET", b"/")
        head = NOT_FOUND + literal(b"content-length", b"5") + literal(b"set-cookie", b"a=b") * 2
        wire.receive(respond(1, b"he", b"llo", head=head))
        response, reader = wire.results[0], Reader()
        assert type(response) is _newclient.Response
        assert (response.version, response.code, response.phrase) == ((b"HTTP", 2, 0), 404, b"Not Found")
        assert list(response.headers.getAllRawHeaders()) == [(b"Set-Cookie", [b"a=b", b"a=b"])]
        assert (response.length, response.previousResponse, response.request.method) == (5, None, b"GET")
        response.deliverBody(reader)
        assert reader.data == b"hello" and reader.reason.type is _newclient.ResponseDone
        raises(RuntimeError, response.deliverBody, Reader())

    async def test_lengths_of_responses_without_a_body(case):
        wire = Wire().hello()
        length = literal(b"content-length", b"5")
        for method, head, isComplete, expected in [
            (b"GET", OK, True, 0),
            (b"GET", OK, False, UNKNOWN_LENGTH),
            (b"HEAD", OK + length, True, 0),
            (b"GET", b"\x89", True, 0),
            (b"GET", b"\x8b" + length, True, 0),
        ]:
            wire.request(method)
            number = wire.sent()[-1][2]
            wire.receive(respond(number, head=head, ends=isComplete))
            response = wire.results[-1]
            assert response.length == expected, (method, head, response.length)
            assert response.headers.hasHeader(b"Content-Length") == (method == b"HEAD")
            if isComplete:
                reader = read(response)
                assert reader.reason.type is _newclient.ResponseDone

    async def test_interim_responses_and_trailers_are_skipped(case):
        wire = asked()
        hints = frame(HEADERS, 4, 1, literal(b":status", b"103") + literal(b"link", b"l"))
        wire.receive(hints, hints, respond(1, b"body", ends=False), frame(DATA, 0, 1, b"!"))
        wire.receive(frame(HEADERS, 5, 1, literal(b"sum", b"1")))
        reader = read(wire.results[0])
        assert reader.data == b"body!" and reader.reason.type is _newclient.ResponseDone

    async def test_a_malformed_request_fails_alone(case):
        wire = Wire().hello()
        wire.request(**{"X-A": [b"a\nb"]})
        wire.request(b"GET", b"no-path")
        wire.request(Host=[b"a", b"b"])
        for result, reason in zip(wire.results, [None, ValueError, _newclient.BadHeaders]):
            # Twisted sanitizes values.
            if reason is not None:
                failure(result, _newclient.RequestGenerationFailed, reason)
        wire.request()
        wire.receive(respond(wire.sent()[-1][2]))
        assert wire.results[-1].code == 200


class Uploads(Cases, by=only_subject):
    """Bodies of requests."""

    async def test_a_body_of_known_length_is_sent_with_it(case):
        wire, body = uploading(6)
        body.consumer.write(b"abc")
        body.consumer.write(b"def")
        assert b"\x0f\x0d\x016" in wire.transport.value(), "a Content-Length of 6"
        body.finished.callback(None)
        seen = wire.sent()
        assert [(each[0], each[1]) for each in seen] == [(HEADERS, 4), (DATA, 0), (DATA, 0), (DATA, 1)], seen
        wire.receive(respond(1))
        assert wire.results[0].code == 200 and body.events == ["start"] and wire.connection.state == "QUIESCENT"

    async def test_a_body_of_unknown_length_ends_with_its_producer(case):
        wire, body = uploading()
        body.consumer.write(b"abc")
        body.finished.callback(None)
        seen = wire.sent()
        assert [(each[0], each[1]) for each in seen] == [(HEADERS, 4), (DATA, 0), (DATA, 1)], seen
        raises(_newclient.ExcessWrite, body.consumer.write, b"more")

    async def test_a_producer_pauses_while_the_servers_window_is_closed(case):
        wire, body = uploading(UNKNOWN_LENGTH, (4, 1000))
        body.consumer.write(b"a" * 65_000)
        assert body.events == ["start"], "less than 64 KiB are unsent"
        body.consumer.write(b"b" * 3000)
        assert body.events == ["start", "pause"]
        # Another request is not affected.
        wire.request()
        wire.receive(respond(3))
        assert wire.results[1].code == 200
        wire.receive(update(1, 30_000))
        assert body.events == ["start", "pause"], "more than half of 64 KiB is unsent"
        wire.receive(update(1, 9000))
        assert body.events == ["start", "pause", "resume"]
        body.finished.callback(None)
        wire.receive(update(1, 99_000), update(0, 99_000))
        sent = b"".join(each[3] for each in wire.sent() if each[0] == DATA)
        assert sent == b"a" * 65_000 + b"b" * 3000

    async def test_a_producer_pauses_while_the_transport_is_full(case):
        wire, body = uploading(isWide=True)
        wire.transport.producer.pauseProducing()
        wire.sent()
        body.consumer.write(b"a" * 400_000)
        assert body.events == ["start", "pause"] and wire.sent() == []
        wire.transport.producer.resumeProducing()
        assert body.events[-1] == "resume" and sum(len(each[3]) for each in wire.sent()) == 400_000

    async def test_a_producer_is_not_resumed_unless_it_was_paused(case):
        wire, body = uploading(isWide=True)
        body.consumer.write(b"a" * MIB)
        assert sum(len(each[3]) for each in wire.sent() if each[0] == DATA) == MIB and body.events == ["start"]

    async def test_a_failure_behind_the_response_is_logged(case):
        wire, body = uploading()
        wire.receive(respond(1))
        body.finished.errback(Failure(ZeroDivisionError()))
        assert wire.kinds() == [(HEADERS, 1), (RST_STREAM, 1)] and wire.connection.state == "QUIESCENT"
        [note] = case.notes.pop("log")
        assert note.endswith("ZeroDivisionError: "), note

    async def test_wrong_lengths_and_failures_of_producers_reset_the_stream(case):
        for act, reason in [
            (lambda body: body.consumer.write(b"too long"), _newclient.WrongBodyLength),
            (lambda body: body.finished.callback(None), _newclient.WrongBodyLength),
            (lambda body: body.finished.errback(Failure(ZeroDivisionError())), ZeroDivisionError),
            (None, ZeroDivisionError),
        ]:
            wire, body = Wire().hello(), Body(6)
            if act is None:
                body.startProducing = lambda consumer: 1 // 0
            wire.request(b"PUT", producer=body)
            act and act(body)
            failure(wire.results[0], _newclient.RequestGenerationFailed, reason)
            assert wire.kinds() == [(HEADERS, 1), (RST_STREAM, 1)] and wire.connection.state == "QUIESCENT"

    async def test_an_upload_continues_after_its_response_until_the_server_needs_no_more(case):
        wire, body = uploading()
        wire.receive(respond(1, b"enough"))
        reader = read(wire.results[0])
        assert reader.reason.type is _newclient.ResponseDone and wire.connection.state == "WAITING"
        body.consumer.write(b"more")
        assert wire.kinds() == [(HEADERS, 1), (DATA, 1)] and body.events == ["start"]
        wire.receive(reset(1, NO_ERROR))
        assert body.events == ["start", "stop"] and wire.connection.state == "QUIESCENT"
        body.consumer.write(b"late")
        assert wire.sent() == []


class Reads(Cases, by=only_subject):
    """Flow control of responses."""

    async def test_an_unread_response_keeps_its_window_and_no_others(case):
        wire = asked(3, streamWindow=65_535, maxConcurrentStreams=3)
        wire.sent()
        parts = [b"x" * 16_383] * 4 + [b"xxx"]
        for stream in (1, 3):
            wire.receive(respond(stream, *parts, ends=False))
        assert wire.sent() == [], "no window is returned"
        wire.receive(respond(5, *parts, ends=False))
        readers = [Reader(), Reader()]
        wire.results[2].deliverBody(readers[1])
        assert len(readers[1].data) == 65_535
        assert (WINDOW_UPDATE, 5) in wire.kinds()
        wire.results[0].deliverBody(readers[0])
        assert {stream for kind, stream in wire.kinds() if kind == WINDOW_UPDATE} >= {1}
        # More than its window is a fault of the server.
        wire.receive(frame(DATA, 0, 3, b"x"))
        assert wire.kinds()[-1] == (RST_STREAM, 3)

    async def test_a_protocol_that_pauses_gets_nothing_until_it_resumes(case):
        wire = asked(2)
        wire.receive(respond(1, b"a", ends=False), respond(3, b"other", ends=False))
        slow, other = Reader(), Reader()
        wire.results[0].deliverBody(slow)
        wire.results[1].deliverBody(other)
        slow.transport.pauseProducing()
        wire.receive(frame(DATA, 0, 1, b"b"), frame(DATA, 0, 3, b"!"), frame(DATA, 1, 1, b"c"))
        assert (slow.data, slow.reason, other.data) == (b"a", None, b"other!")
        slow.transport.resumeProducing()
        assert slow.data == b"abc" and slow.reason.type is _newclient.ResponseDone

    async def test_a_protocol_may_pause_and_resume_within_a_delivery(case):
        wire = asked()

        class Fickle(Reader):
            inside = False

            def dataReceived(self, data):
                assert not self.inside
                self.inside = True
                self.data += data
                self.transport.pauseProducing()
                self.transport.resumeProducing()
                self.inside = False

        reader = Fickle()
        wire.receive(respond(1, b"a", ends=False))
        wire.results[0].deliverBody(reader)
        reader.transport.pauseProducing()
        for _ in range(3):
            wire.receive(frame(DATA, 0, 1, b"b"))
        reader.transport.resumeProducing()
        wire.receive(frame(DATA, 1, 1, b"c"))
        assert reader.data == b"abbbc" and reader.reason.type is _newclient.ResponseDone, reader.reason

    async def test_the_window_of_ignored_and_abandoned_responses_is_returned(case):
        wire = Wire(streamWindow=65_535, maxConcurrentStreams=2).hello()
        # 40 times the connection's window.
        for number in range(320):
            wire.request()
            stream = wire.sent()[-1][2]
            wire.receive(respond(stream, *[b"x" * 16_000] * 2, ends=number % 2 == 0))
            if number % 2:
                reader = read(wire.results[-1])
                reader.transport.loseConnection()
                wire.clock.advance(0)
                failure(reader.reason, _newclient.ResponseFailed, error.ConnectionDone)
                # This part was on its way.
                wire.receive(frame(DATA, 0, stream, b"x" * 16_000))
            assert wire.connection.state == "QUIESCENT", number
        assert not wire.isClosed

    async def test_the_window_of_parts_that_nothing_reads_is_returned(case):
        wire = Wire(streamWindow=65_535, maxConcurrentStreams=2).hello()
        for _ in range(20):
            # A protocol gives up while it is paused.
            wire.request()
            stream = wire.sent()[-1][2]
            wire.receive(respond(stream, ends=False))
            reader = read(wire.results[-1])
            reader.transport.pauseProducing()
            wire.receive(frame(DATA, 0, stream, b"x" * 16_000))
            reader.transport.loseConnection()
            wire.clock.advance(0)
            assert reader.data == b"" and reader.reason.type is _newclient.ResponseFailed
            # A request is cancelled when parts of its response were received.
            first, second = wire.request(), wire.request()
            first.addCallback(lambda _: second.cancel())
            wire.receive(respond(stream + 2), respond(stream + 4, b"x" * 16_000, ends=False))
        assert not wire.isClosed and wire.connection.state == "QUIESCENT"

    async def test_a_protocol_that_raises_ends_only_its_stream(case):
        wire = asked(2)
        wire.receive(respond(1, b"a", ends=False), respond(3, ends=False))
        reader = Reader()
        reader.dataReceived = lambda data: 1 // 0
        wire.results[0].deliverBody(reader)
        failure(reader.reason, _newclient.ResponseFailed, ZeroDivisionError)
        assert (RST_STREAM, 1) in wire.kinds()
        other = read(wire.results[1])
        wire.receive(frame(DATA, 1, 3, b"other"))
        assert other.data == b"other" and other.reason.type is _newclient.ResponseDone

    async def test_reading_a_body_can_be_cancelled(case):
        import warnings

        warnings.simplefilter("error")
        wire = asked()
        wire.receive(respond(1, b"a", ends=False))
        wire.sent()
        results = []
        reading = client.readBody(wire.results[0])
        reading.addBoth(results.append)
        reading.cancel()
        assert results[0].type is defer.CancelledError and wire.kinds() == [(RST_STREAM, 1)]
        wire.clock.advance(0)
        assert wire.connection.state == "QUIESCENT" and "log" not in case.notes, case.notes


class Ends(Cases, by=only_subject):
    """The ends of streams and of connections."""

    async def test_a_reset_is_a_failure_with_its_code(case):
        for before, kind in [(b"", None), (respond(1, b"part", ends=False), _newclient.ResponseFailed)]:
            wire, reader = Wire().hello(), Reader()
            wire.request()
            wire.receive(before)
            response = wire.results[0]
            if response is not None:
                response.deliverBody(reader)
            wire.receive(reset(1, INTERNAL_ERROR))
            result = reader.reason if kind else wire.results[0]
            failure(result, _newclient.ResponseFailed, type(result.value.reasons[0].value))
            assert code_of(result) == 2 and isinstance(result.value.reasons[0].value, error.ConnectionLost)
            assert wire.connection.state == "QUIESCENT" and result.value.response is (response if kind else None)

    async def test_a_server_that_refuses_a_request_gets_no_more_on_the_connection(case):
        wire, body = Wire().hello(), Body(UNKNOWN_LENGTH)
        wire.request()
        wire.request(b"PUT", producer=body)
        wire.request()
        wire.receive(reset(1, REFUSED_STREAM), reset(3, REFUSED_STREAM))
        for result, kind in zip(
            wire.results, [_newclient.ResponseNeverReceived, _newclient.RequestTransmissionFailed]
        ):
            failure(result, kind, type(result.value.reasons[0].value))
            assert code_of(result) == 7
        assert body.events == ["start", "stop"] and wire.connection.state == "RETIRED" and not wire.isClosed
        wire.receive(respond(5))
        assert wire.results[2].code == 200 and wire.isClosed

    async def test_a_farewell_refuses_requests_beyond_its_last_and_others_are_answered(case):
        wire = asked(4, maxConcurrentStreams=3)
        goaway = frame(GOAWAY, 0, 0, (1).to_bytes(4) + NO_ERROR)
        wire.receive(goaway)
        assert wire.results[0] is None
        for result in wire.results[1:3]:
            failure(result, _newclient.ResponseNeverReceived, type(result.value.reasons[0].value))
            assert code_of(result) == 7
        failure(wire.results[3], _newclient.RequestNotSent)
        wire.request()
        failure(wire.results[-1], _newclient.RequestNotSent)
        assert not wire.isClosed
        wire.receive(respond(1))
        assert wire.results[0].code == 200 and wire.isClosed and wire.connection.state == "RETIRED"

    async def test_requests_in_the_queue_of_a_connection_that_ends_are_sent_on_another_one(case):
        from couplet_twisted._webpool2 import _Retrying
        from twisted.web._newclient import Request

        one, other, body = Wire(maxConcurrentStreams=1).hello(), Wire().hello(), Body(9)
        one.request()
        headers = Headers({b"Host": [b"a.example"]})
        retrying = _Retrying(one.connection, lambda: defer.succeed(other.connection))
        retrying.request(Request._construct(b"POST", b"/", headers, body, persistent=True))
        one.receive(frame(GOAWAY, 0, 0, (1).to_bytes(4) + NO_ERROR))
        assert other.kinds() == [(HEADERS, 1)] and body.events == ["start"]

    async def test_a_lost_connection_fails_its_requests_as_twisteds_does(case):
        wire, body, reader = Wire(maxConcurrentStreams=3).hello(), Body(9), Reader()
        wire.request()
        wire.request(b"PUT", producer=body)
        wire.request()
        wire.request()
        wire.receive(respond(5, b"part", ends=False))
        wire.results[2].deliverBody(reader)
        wire.lose()
        failure(wire.results[0], _newclient.ResponseNeverReceived, error.ConnectionDone)
        failure(wire.results[1], _newclient.RequestTransmissionFailed, error.ConnectionDone)
        failure(reader.reason, _newclient.ResponseFailed, error.ConnectionDone)
        failure(wire.results[3], _newclient.RequestNotSent)
        assert body.events == ["start", "stop"] and reader.data == b"part"

    async def test_garbage_ends_the_connection_and_its_requests(case):
        for garbage, code in [(b"HTTP/1.1 200 OK\r\n\r\n", 6), (frame(PING, 0, 0, bytes(8)) * 5000, 11)]:
            wire = asked()
            wire.receive(garbage)
            failure(wire.results[0], _newclient.ResponseFailed, error.ConnectionLost)
            seen = wire.sent()
            assert seen[-1][0] == GOAWAY and int.from_bytes(seen[-1][3][4:8]) == code, (garbage[:20], seen)
            assert wire.isClosed
            wire.receive(garbage)

    async def test_a_malformed_response_ends_only_its_request(case):
        wire = asked(2)
        wire.receive(frame(HEADERS, 5, 1, literal(b"a", b"b")))
        failure(wire.results[0], _newclient.ResponseFailed, type(wire.results[0].value.reasons[0].value))
        assert code_of(wire.results[0]) == 1
        short = literal(b"content-length", b"9")
        wire.receive(respond(3, b"short", head=OK + short))
        reader = read(wire.results[1])
        assert code_of(reader.reason) == 1 and not wire.isClosed and wire.connection.state == "QUIESCENT"


class Cancels(Cases, by=only_subject):
    """A request is cancelled in each of its states."""

    async def test_in_the_queue(case):
        wire = asked(maxConcurrentStreams=1)
        wire.request().cancel()
        assert wire.results[1].type is defer.CancelledError
        wire.receive(respond(1))
        assert wire.results[0].code == 200 and wire.kinds() == [(HEADERS, 1)]
        assert wire.connection.state == "QUIESCENT"

    async def test_before_the_response(case):
        wire = Wire()
        deferred = wire.request()
        wire.hello()
        deferred.cancel()
        failure(wire.results[0], _newclient.ResponseNeverReceived, defer.CancelledError)
        assert wire.kinds() == [(RST_STREAM, 1)] and wire.connection.state == "QUIESCENT"
        wire.receive(respond(1, b"late"))
        wire.request()
        wire.receive(respond(3))
        assert wire.results[1].code == 200

    async def test_while_the_body_is_sent(case):
        for length in (9, UNKNOWN_LENGTH):
            wire, body = Wire().hello(), Body(length)
            deferred = wire.request(b"PUT", producer=body)
            body.consumer.write(b"a")
            deferred.cancel()
            failure(wire.results[0], _newclient.RequestGenerationFailed, defer.CancelledError)
            assert wire.kinds()[-1] == (RST_STREAM, 1) and wire.connection.state == "QUIESCENT"

    async def test_of_a_file(case):
        wire = Wire().hello()
        file = io.BytesIO(b"f" * 9)
        producer = client.FileBodyProducer(file, cooperator=task.Cooperator(scheduler=lambda call: None))
        wire.request(b"PUT", producer=producer).cancel()
        assert file.closed and wire.results[0].type is defer.CancelledError
        assert (RST_STREAM, 1) in wire.kinds()

    async def test_after_the_response_nothing_happens(case):
        wire = Wire().hello()
        deferred = wire.request()
        wire.receive(respond(1, b"part", ends=False))
        deferred.cancel()
        reader = read(wire.results[0])
        wire.receive(frame(DATA, 1, 1, b"!"))
        assert reader.data == b"part!"

    async def test_a_server_that_answers_nothing_loses_its_requests(case):
        wire = Wire().hello()
        wire.request().cancel()
        assert wire.kinds() == [(HEADERS, 1), (PING, 0), (RST_STREAM, 1)]
        assert wire.connection.state == "QUIESCENT" and not wire.isClosed
        # The PING is answered, and the next request is slow too.
        wire.receive(frame(PING, 1, 0, bytes(8)))
        wire.request().cancel()
        assert wire.kinds()[1] == (PING, 0) and wire.connection.state == "QUIESCENT"
        # This PING is not.
        wire.request()
        wire.request().cancel()
        assert wire.connection.state == "RETIRED" and not wire.isClosed and wire.results[2] is None
        wire.request()
        failure(wire.results[-1], _newclient.RequestNotSent)
        wire.lose()

    async def test_requests_from_before_a_ping_are_no_answer_to_it(case):
        wire = Wire().hello()
        first, second = wire.request(), wire.request()
        wire.sent()
        first.cancel()
        second.cancel()
        assert wire.kinds() == [(PING, 0), (RST_STREAM, 1), (RST_STREAM, 3)] and wire.connection.state == "QUIESCENT"

    async def test_a_silent_connection_is_aborted_with_its_last_request(case):
        wire = Wire().hello()
        wire.request().cancel()
        wire.request().cancel()
        assert wire.isAborted and wire.connection.state == "RETIRED"


class Transports(Cases, by=only_subject):
    """The transport of a connection."""

    async def test_a_connection_that_becomes_idle_while_its_transport_is_full_is_used_again(case):
        wire = asked()
        wire.transport.producer.pauseProducing()
        wire.receive(respond(1))
        assert wire.connection.state == "QUIESCENT" and wire.transport.producer is None
        wire.request()
        assert wire.kinds() == [(HEADERS, 1), (HEADERS, 3)]

    async def test_a_connection_is_idle_once_its_last_upload_has_left_a_full_transport(case):
        wire, body = uploading(isWide=True)
        wire.transport.producer.pauseProducing()
        body.consumer.write(b"a" * 400_000)
        wire.receive(respond(1))
        body.resumeProducing = lambda: body.finished.callback(None)
        wire.transport.producer.resumeProducing()
        assert body.finished.called and wire.sent()[-1][:3] == (DATA, 1, 1)
        assert wire.connection.state == "QUIESCENT" and wire.pool._timeouts

    async def test_a_connection_that_its_pool_refuses_is_closed(case):
        wire = Wire().hello()
        wire.pool._putConnection = lambda key, connection: 1 // 0
        wire.request()
        wire.receive(respond(1))
        assert wire.results[0].code == 200 and wire.kinds()[-1] == (GOAWAY, 0) and wire.isClosed
        [note] = case.notes.pop("log")
        assert "ZeroDivisionError" in note, note

    async def test_a_server_that_reads_nothing_is_not_read_from(case):
        wire = Wire().hello((4, 2**30))
        wire.receive(update(0, 2**30))
        bodies = [Body(UNKNOWN_LENGTH) for _ in range(9)]
        for body in bodies:
            wire.request(b"PUT", producer=body)
        wire.transport.producer.pauseProducing()
        for body in bodies:
            body.consumer.write(b"a" * 60_000)
        wire.receive(frame(PING, 0, 0, bytes(8)))
        assert wire.transport.producerState == "paused"
        wire.transport.producer.resumeProducing()
        assert wire.transport.producerState == "producing"
        assert sum(len(each[3]) for each in wire.sent() if each[0] == DATA) == 540_000

    async def test_requests_of_one_event_leave_in_one_write(case):
        wire = asked()
        wire.sent()
        written, body = [], Body(UNKNOWN_LENGTH)
        wire.transport.write = written.append

        def again(_):
            wire.ask(5)
            wire.request(b"PUT", producer=body)
            for _ in range(3):
                body.consumer.write(b"part")

        wire.request().addCallback(again)
        written.clear()
        wire.receive(respond(3))
        assert len(written) == 1 and len(frames(written[0])) == 9, written


class Limits(Cases, by=only_subject):
    """The limits of a connection."""

    async def test_requests_wait_while_as_many_are_open_as_the_pool_or_the_server_allow(case):
        for wire, most in [(Wire(maxConcurrentStreams=2).hello(), 2), (Wire().hello((3, 1)), 1), (Wire().hello(), 100)]:
            wire.ask(150)
            assert [kind for kind, _ in wire.kinds()] == [HEADERS] * most
            for stream in range(1, 301, 2):
                wire.receive(respond(stream))
            assert all(result.code == 200 for result in wire.results)
            assert wire.connection.state == "QUIESCENT"

    async def test_ten_thousand_requests_leave_no_streams(case):
        wire = Wire().hello()
        streams = weakref.WeakSet()
        for number in range(10_000):
            wire.request()
            streams.update(wire.connection._streams.values())
            stream = 2 * number + 1
            wire.receive(respond(stream, b"body"))
            reader = read(wire.results.pop())
            assert reader.data == b"body"
            if number % 500 == 0:
                wire.sent()
        del reader
        gc.collect()
        assert not streams and not wire.connection._streams and wire.connection.state == "QUIESCENT"


class Installs(unittest.TestCase):
    """Without a pool for it, nothing changes."""

    def test_nothing_is_imported_without_the_pool(self):
        lines = [
            "import couplet_twisted, sys; couplet_twisted.install()",
            "import twisted.web.client",
            "print('couplet_twisted._webpool2' in sys.modules)",
            "couplet_twisted.HTTP2ConnectionPool",
            "print('couplet_twisted._webpool2' in sys.modules, 'twisted.web.server' in sys.modules)",
        ]
        self.assertEqual(python("-c", "\n".join(lines)), "False\nTrue False\n")

    def test_the_pool_needs_neither_our_reactor_nor_h2(self):
        lines = [
            "import sys; sys.modules['h2'] = None",
            "import couplet_twisted",
            "from twisted.internet import epollreactor; epollreactor.install()",
            "from twisted.internet import reactor",
            "print(couplet_twisted.HTTP2ConnectionPool(reactor).maxConcurrentStreams)",
        ]
        self.assertEqual(python("-c", "\n".join(lines)), "100\n")
