//! Guesses the protocol of a peer that does not speak TLS, from its first bytes.

/// Number of bytes examined: a record header, which is always complete when the stream turns out
/// not to be TLS. With more, the guess would depend on how the stream is cut.
pub(super) const LENGTH: usize = 5;

/// The guess, unless the stream looks like TLS.
pub(super) fn guess_protocol(first: &[u8], is_server: bool) -> Option<&'static str> {
    let to_server: &[(&[&str], &str)] = &[
        (
            &[
                "GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "OPTIONS ", "CONNECT ", "PATCH ",
                "PRI ",
            ],
            "the peer sent plain HTTP to a TLS port",
        ),
        (&["SSH-"], "the peer speaks SSH"),
        (
            &["PROXY ", "\r\n\r\n\0\r\nQUIT\n"],
            "the peer sent a PROXY header, which is not expected here",
        ),
        (&["EHLO ", "HELO ", "STARTTLS"], "the peer sent plain SMTP to a TLS port"),
    ];
    let to_client: &[(&[&str], &str)] = &[
        (&["HTTP/"], "the server answered in plain HTTP"),
        (&["SSH-"], "the server speaks SSH"),
        (&["220 ", "220-"], "the server greeted in plaintext: it may expect STARTTLS"),
        (&["+OK", "* OK"], "the server greeted in plaintext: it may expect STARTTLS"),
    ];
    let guesses = if is_server { to_server } else { to_client };
    let begins = |words: &[&str]| {
        words.iter().any(|word| {
            let n = word.len().min(LENGTH);
            first.starts_with(&word.as_bytes()[..n])
        })
    };
    guesses.iter().find(|(words, _)| begins(words)).map(|(_, guess)| *guess).or_else(|| {
        let is_record = matches!(first, [20..=24, 3, ..] | [20..=24] | []);
        (!is_record).then_some("the peer does not speak TLS")
    })
}
