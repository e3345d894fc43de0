"""A server by Python's h2: prints its port, and answers the requests of one connection.

The body has as many bytes as `/get/NUMBER` says, or else says how many were received.
"""

import socket

import h2.config
import h2.connection
import h2.events


def push(connection, unsent):
    for stream in list(unsent):
        while unsent[stream] and (room := min(connection.local_flow_control_window(stream), 16384)):
            connection.send_data(stream, unsent[stream][:room])
            unsent[stream] = unsent[stream][room:]
        if not unsent[stream]:
            connection.end_stream(stream)
            del unsent[stream]


def main():
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    peer, _ = listener.accept()
    config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    peer.sendall(connection.data_to_send())
    paths, lengths, unsent = {}, {}, {}
    while data := peer.recv(65536):
        for event in connection.receive_data(data):
            match event:
                case h2.events.RequestReceived():
                    paths[event.stream_id] = dict(event.headers)[":path"]
                    lengths[event.stream_id] = 0
                case h2.events.DataReceived():
                    lengths[event.stream_id] += len(event.data)
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.StreamEnded():
                    path = paths[event.stream_id]
                    body = b"%d" % lengths[event.stream_id]
                    if path.startswith("/get/"):
                        body = b"g" * int(path[5:])
                    head = [(":status", "200"), ("content-length", str(len(body)))]
                    connection.send_headers(event.stream_id, head)
                    unsent[event.stream_id] = body
        push(connection, unsent)
        peer.sendall(connection.data_to_send())


main()
