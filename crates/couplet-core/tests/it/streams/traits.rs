//! The traits of `futures-io`, used by `futures-util`.

use std::io::IoSlice;

use couplet::Result;
use futures_util::io::{AsyncReadExt, AsyncWriteExt, copy};

use super::{connected, finish, serve, start};
use crate::secure::Rig;

#[test]
fn futures_io_reads_writes_and_closes() {
    for mut rig in Rig::both() {
        rig.network.set_capacity(3000);
        // An echo by the copy of `futures-util`, between the halves.
        let port = serve(&rig, async |stream| -> Result<()> {
            let (reads, mut writes) = stream.split();
            copy(reads, &mut writes).await?;
            Ok(AsyncWriteExt::close(&mut writes).await?)
        });
        let connecting = rig.reactor.connect_stream(port.to_string());
        let talk = start(&mut rig, async move {
            let mut stream = connecting.await?;
            AsyncWriteExt::write_all(&mut stream, &[7; 1000]).await?;
            AsyncWriteExt::flush(&mut stream).await?;
            let mut received = [0; 1000];
            AsyncReadExt::read_exact(&mut stream, &mut received).await?;
            AsyncWriteExt::close(&mut stream).await?;
            let mut rest = Vec::new();
            AsyncReadExt::read_to_end(&mut stream, &mut rest).await?;
            Ok(received == [7; 1000] && rest.is_empty())
        });
        assert!(talk.take().expect("it ends"));
    }
}

#[test]
fn several_slices_are_written_in_order_and_those_past_a_whole_write_are_not() {
    for mut rig in Rig::both() {
        let (mut stream, wire) = connected(&mut rig);
        let written = finish(&mut rig, async move {
            let few = [&b"one, "[..], b"", b"two, ", b"three"].map(IoSlice::new);
            let big = [b'x'; 40_000];
            let many = [&big[..], &big, b"never"].map(IoSlice::new);
            let few = stream.write_vectored(&few).await?;
            Ok((few, stream.write_vectored(&many).await?))
        });
        // The dropped stream sends all that it has taken.
        let mut sent = Vec::new();
        while !wire.saw_fin() || wire.waiting() > 0 {
            sent.append(&mut wire.take());
            rig.turn();
        }
        assert_eq!((written.0, sent.len()), (15, written.0 + written.1));
        assert!(sent.starts_with(b"one, two, threexxx") && sent.ends_with(b"xxx"));
        assert!((40_000..80_000).contains(&written.1), "{written:?}");
    }
}
