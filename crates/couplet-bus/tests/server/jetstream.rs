//! JetStream.

use std::time::Duration;

use couplet::bus::nats::{Consumer, JetStream, JetStreamError, Start, StreamOptions};
use couplet::bus::{Bus, Message, RequestError};

use crate::needed::Folder;
use crate::server::{Client, Server};

const LONG: Duration = Duration::from_secs(30);

fn start(folder: &Folder) -> Option<Server> {
    Server::start(&["-js", "-sd", &folder.path("")])
}

fn publish(client: &mut Client, jetstream: &JetStream, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let message = Message::new("rooms.lobby", number.to_string()).header("Number", "x");
        let stored = jetstream.publish(message, Some(&number.to_string()));
        let stored = client.finish(stored).expect("it is stored");
        assert_eq!((stored.position, stored.is_duplicate), (number, false));
    }
}

/// Fetches and acknowledges so many messages, whose payloads are their positions.
fn fetch(client: &mut Client, bus: &Bus, consumer: &Consumer, most: usize) -> Vec<u64> {
    let fetched = client.finish(consumer.fetch(most, LONG)).expect("they are there");
    for delivered in &fetched {
        assert_eq!(*delivered.message.payload(), delivered.position.to_string());
        assert_eq!(delivered.message.find_header("number"), Some("x"));
        consumer.acknowledge(delivered).expect("there is room");
    }
    client.finish(bus.flush()).expect("it is connected");
    fetched.into_iter().map(|delivered| delivered.position).collect()
}

#[test]
fn c212_a_stream_keeps_messages_once_and_consumers_read_from_a_position() {
    let folder = Folder::new();
    let Some(mut server) = start(&folder) else { return };
    let mut client = Client::new();
    let bus = client.bus(server.options());
    let jetstream = JetStream::new(&bus, LONG);
    let options = StreamOptions::new("ROOMS", ["rooms.>"]).max_messages(100);
    for _ in 0..2 {
        client.finish(jetstream.create_stream(&options)).expect("it is created or there");
    }
    publish(&mut client, &jetstream, 1..11);
    let again = jetstream.publish(Message::new("rooms.lobby", "7"), Some("7"));
    let again = client.finish(again).expect("it is known");
    assert_eq!((again.position, again.is_duplicate), (7, true));

    let consumer = client.finish(jetstream.consumer("ROOMS", Start::After(5))).expect("a consumer");
    assert_eq!(fetch(&mut client, &bus, &consumer, 3), [6, 7, 8]);
    let rest = client.finish(consumer.fetch(10, Duration::from_millis(100))).expect("in time");
    assert_eq!(rest.iter().map(|one| one.position).collect::<Vec<_>>(), [9, 10]);
    let none = client.finish(consumer.fetch(10, Duration::from_millis(10))).expect("in time");
    assert!(none.is_empty());
    let oldest = client.finish(jetstream.consumer("ROOMS", Start::Oldest)).expect("a consumer");
    assert_eq!(fetch(&mut client, &bus, &oldest, 2), [1, 2]);

    let durable = jetstream.durable_consumer("ROOMS", "node", Start::Oldest);
    let durable = client.finish(durable).expect("a consumer");
    assert_eq!(fetch(&mut client, &bus, &durable, 4), [1, 2, 3, 4]);
    let durable = jetstream.durable_consumer("ROOMS", "node", Start::Oldest);
    let durable = client.finish(durable).expect("the same consumer");
    assert_eq!(fetch(&mut client, &bus, &durable, 3), [5, 6, 7]);
    // The server takes acknowledgements in its own time.
    loop {
        let info = bus.request("$JS.API.CONSUMER.INFO.ROOMS.node", "", LONG);
        let info = client.finish(info).expect("it is there");
        if String::from_utf8_lossy(info.payload()).contains("\"num_ack_pending\":0,") {
            break;
        }
    }

    server.stop();
    server.start_again();
    client.until_all(&["disconnected: ", "connected"]);
    client.finish(bus.flush()).expect("it is connected");
    let consumer = client.finish(jetstream.consumer("ROOMS", Start::After(5))).expect("a consumer");
    assert_eq!(fetch(&mut client, &bus, &consumer, 5), [6, 7, 8, 9, 10]);
}

#[test]
fn c212_errors_of_jetstream_are_errors() {
    let folder = Folder::new();
    let Some(server) = start(&folder) else { return };
    let mut client = Client::new();
    let bus = client.bus(server.options());
    let jetstream = JetStream::new(&bus, LONG);
    let missing = client.finish(jetstream.consumer("ROOMS", Start::Now)).unwrap_err();
    let error =
        JetStreamError::Refused { code: 10_059, description: "stream not found".to_owned() };
    assert_eq!(missing.downcast_ref(), Some(&error));
    let nowhere = jetstream.publish(Message::new("nowhere", ""), None);
    let nowhere = client.finish(nowhere).unwrap_err();
    assert_eq!(nowhere.downcast_ref(), Some(&RequestError::NoResponders));

    let replying = bus.clone();
    let _impostor = bus.subscribe("impostor", move |asked| {
        replying.reply(&asked, "no JSON").expect("it wants a reply");
    });
    let bad = client.finish(jetstream.publish(Message::new("impostor", ""), None)).unwrap_err();
    assert!(matches!(bad.downcast_ref(), Some(JetStreamError::BadReply(_))), "{bad}");

    let Some(plain) = Server::start(&[]) else { return };
    let bus = client.bus(plain.options());
    let options = StreamOptions::new("ROOMS", ["rooms.>"]);
    let none = client.finish(JetStream::new(&bus, LONG).create_stream(&options)).unwrap_err();
    assert_eq!(none.downcast_ref(), Some(&RequestError::NoResponders));
}
