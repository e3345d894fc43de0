//! Backpressure, and the outcome of writes.

use couplet::Bytes;

use super::{both_connected, connected, finish, hold, start, with};
use crate::secure::Rig;

#[test]
fn a_write_past_the_high_mark_waits_for_the_peer() {
    for mut rig in Rig::both() {
        rig.network.set_capacity(5000);
        let (mut stream, wire) = connected(&mut rig);
        let transport = stream.transport().clone();
        transport.set_write_marks(10_000, 20_000);
        let writing = start(&mut rig, async move {
            stream.write_all(vec![b'x'; 1_000_000]).await?;
            stream.flush().await?;
            Ok(stream)
        });
        assert!(writing.is_pending());
        // The high mark, and one write.
        assert!(transport.buffered() <= 20_000 + 64 * 1024, "{}", transport.buffered());
        let mut taken = 0;
        for _ in 0..1000 {
            taken += wire.take().len();
            rig.turn();
            assert!(transport.buffered() <= 20_000 + 64 * 1024, "{}", transport.buffered());
        }
        assert_eq!(taken, 1_000_000);
        writing.take().expect("all has left");
    }
}

#[test]
fn a_shared_buffer_is_not_copied() {
    for (mut rig, mut stream, wire) in both_connected() {
        let (bytes, shared) = (Bytes::from(vec![7; 10_000]), ());
        let kept = bytes.clone();
        finish(&mut rig, async move {
            stream.write_bytes(bytes).await?;
            assert!(!kept.is_unique(), "the outbox holds it");
            stream.flush().await?;
            assert!(kept.is_unique(), "it is dropped when it has left");
            Ok(shared)
        });
        assert_eq!(wire.take().len(), 10_000);
    }
}

#[test]
fn a_flush_after_a_clean_end_succeeds() {
    for (mut rig, stream, wire) in both_connected() {
        stream.transport().lose_connection();
        rig.fin(&wire);
        let held = hold(stream);
        let flush = with(&mut rig, &held, async |stream| Ok(stream.flush().await?));
        flush.take().expect("nothing was lost");
    }
}

#[test]
fn flush_waits_until_all_has_left_and_fails_with_the_connection() {
    for mut rig in Rig::both() {
        rig.network.set_capacity(1000);
        let (stream, wire) = connected(&mut rig);
        let held = hold(stream);
        let flush = with(&mut rig, &held, async |stream| {
            stream.write_all([1; 5000]).await?;
            Ok(stream.flush().await?)
        });
        assert!(flush.is_pending());
        rig.reset(&wire);
        let failure = flush.take().expect_err("it is lost");
        let error = failure.downcast_ref::<std::io::Error>().expect("an io::Error");
        let lost = error.get_ref().and_then(|lost| lost.downcast_ref::<couplet::ConnectionLost>());
        assert!(lost.is_some(), "{error}");
        let writing = with(&mut rig, &held, async |stream| Ok(stream.write_all("more").await?));
        assert!(writing.take().is_err(), "nothing can be written to a lost connection");
    }
}
