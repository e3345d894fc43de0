//! Records, and buffers that layers copy.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use couplet::Transport;
use couplet::factory::Layered;
use couplet::layers::PassThrough;

use super::{End, Rig, accepting};
use crate::suite::kit::LOOPBACK;

#[test]
fn c82_small_writes_of_a_turn_share_records() {
    for mut rig in Rig::both() {
        let (server, client) = rig.joined();
        let wire =
            |rig: &mut Rig| rig.l.snapshot().connections.iter().map(|c| c.wire[1]).sum::<u64>();
        let before = wire(&mut rig);
        for _ in 0..1000 {
            client.transport().write("0123456789");
        }
        rig.turn();
        for _ in 0..1000 {
            client.transport().write_bytes(Bytes::from_static(b"0123456789"));
        }
        rig.turn();
        assert_eq!(server.received().len(), 20_000);
        let sent = wire(&mut rig) - before;
        assert_eq!(sent, 2 * (10_000 + 22), "a record takes 22 bytes more");
    }
}

/// A layer that only passes bytes on moves a buffer to the level below, where TLS copies it.
#[test]
fn a_buffer_is_dropped_when_a_layer_has_copied_it_at_any_level() {
    let cases = [(false, false), (false, true), (true, false), (true, true)];
    for ((passes_on, answers), mut rig) in Rig::each(cases) {
        let data = Arc::<[u8]>::from(vec![7; 20_000]);
        let lent = Bytes::from_owner(data.clone());
        let given = RefCell::new(Some(lent));
        let write = move |transport: &Transport| {
            transport.write_bytes(given.take().expect("one answer"));
        };
        let (server, client) = (End::default(), End::default());
        let (end, mut write) = (server.clone(), Some(write));
        let end = match answers {
            true => end.on("data", write.take().expect("it is there")),
            false => end,
        };
        let layer = accepting(&rig.server);
        let port = match passes_on {
            false => rig.reactor.listen(LOOPBACK, Layered::new(move || end.clone(), layer)),
            true => {
                let inner = Layered::new(move || end.clone(), |_, _| PassThrough::default());
                rig.reactor.listen(LOOPBACK, Layered::new(inner, layer))
            }
        };
        rig.connect(&port.expect("a free port").host(), &client).detach();
        rig.turn();
        client.transport().write("question");
        rig.turn();
        if let Some(write) = write {
            write(&server.transport());
            rig.turn();
        }
        assert_eq!(client.received(), data[..]);
        assert_eq!(Arc::strong_count(&data), 1, "passes on: {passes_on}, answers: {answers}");
    }
}
