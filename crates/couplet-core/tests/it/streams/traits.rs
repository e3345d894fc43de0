//! The traits of `futures-io`, used by `futures-util`.

use couplet::Result;
use futures_util::io::{AsyncReadExt, AsyncWriteExt, copy};

use super::{serve, start};
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
