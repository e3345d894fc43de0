//! Streams over TLS, from the beginning and from a point in the stream.

use couplet::Result;
use couplet::layers::PlaintextAfterUpgrade;

use super::{both_connected, serve, start};
use crate::secure::{NAME, Rig};

#[test]
fn c81_start_tls_encrypts_from_a_point_of_the_dialogue_on() {
    for mut rig in Rig::both() {
        let tls = rig.server.clone();
        let port = serve(&rig, async move |mut stream| -> Result<()> {
            let asked = stream.read_line().await?;
            assert_eq!(asked.as_deref(), Some(&b"STARTTLS"[..]));
            stream.write_all("go ahead\n").await?;
            stream.start_tls(&tls).await?;
            assert!(stream.tls().is_some());
            let secret = stream.read_line().await?.expect("a line");
            stream.write_all([&secret[..], b" is safe\n"].concat()).await?;
            Ok(stream.close().await?)
        });
        let (tls, connecting) = (rig.client.clone(), rig.reactor.connect_stream(port.to_string()));
        let talk = start(&mut rig, async move {
            let mut stream = connecting.await?;
            stream.write_all("STARTTLS\n").await?;
            stream.read_line().await?;
            stream.start_tls((&tls, NAME)).await?;
            stream.write_all("1234\n").await?;
            let answer = stream.read_line().await?;
            assert_eq!(stream.read_line().await?, None, "a close_notify is the end");
            Ok(answer)
        });
        assert_eq!(talk.take().expect("an answer").as_deref(), Some(&b"1234 is safe"[..]));
    }
}

#[test]
fn c84_bytes_in_clear_behind_the_request_cut_the_connection() {
    for (mut rig, mut stream, wire) in both_connected() {
        let tls = rig.server.clone();
        wire.push(b"STARTTLS\nRSET\n");
        let failure = start(&mut rig, async move {
            stream.read_line().await?;
            Ok(stream.start_tls(&tls).await?)
        });
        let failure = failure.take().expect_err("that is an injection");
        let error = failure.downcast_ref::<std::io::Error>().expect("an io::Error");
        let source = error.get_ref().and_then(|source| source.downcast_ref());
        assert!(matches!(source, Some(PlaintextAfterUpgrade)), "{error}");
        rig.close(&wire);
        assert!(rig.l.snapshot().connections.is_empty());
    }
}

#[test]
fn a_failed_handshake_and_an_invalid_name_are_different_errors() {
    for (mut rig, mut stream, wire) in both_connected() {
        let tls = rig.client.clone();
        let failed = start(&mut rig, async move {
            let error = stream.start_tls((&tls, "no name")).await.expect_err("no name");
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
            Ok(stream.start_tls((&tls, NAME)).await?)
        });
        rig.push(&wire, b"HTTP/1.1 400 Bad Request\r\n\r\n");
        rig.close(&wire);
        let failure = failed.take().expect_err("that is not TLS");
        assert!(failure.downcast_ref::<std::io::Error>().is_some(), "{failure}");
    }
}
