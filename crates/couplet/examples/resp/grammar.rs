//! The grammar of RESP: a command is an array of words, `*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\n`.

#[derive(Debug, thiserror::Error)]
#[error("the peer does not speak RESP")]
pub(crate) struct NotResp;

/// The result of parsing the beginning of the bytes.
pub(crate) enum Found<'a> {
    /// The words of a command, and its length in bytes.
    Command(Vec<&'a [u8]>, usize),
    /// Part of a command, with at least this many bytes missing.
    Part(usize),
}

/// Parses the command at the start of `bytes`.
pub(crate) fn command(bytes: &[u8]) -> Result<Found<'_>, NotResp> {
    let Some((count, mut rest)) = header(b'*', bytes)? else { return Ok(Found::Part(1)) };
    let mut words = Vec::new();
    for left in (0..count).rev() {
        let others = left * b"$0\r\n\r\n".len();
        let Some((length, body)) = header(b'$', rest)? else { return Ok(Found::Part(1 + others)) };
        let Some((word, after)) = body.split_at_checked(length + 2) else {
            return Ok(Found::Part(length + 2 - body.len() + others));
        };
        words.push(word.strip_suffix(b"\r\n").ok_or(NotResp)?);
        rest = after;
    }
    Ok(Found::Command(words, bytes.len() - rest.len()))
}

/// The number in a header such as `$5\r\n`, and the bytes after it; `None` if it is incomplete.
fn header(sign: u8, bytes: &[u8]) -> Result<Option<(usize, &[u8])>, NotResp> {
    let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if *first != sign || digits > 7 {
        return Err(NotResp);
    }
    match &rest[digits..] {
        [] => Ok(None),
        [b'\r'] if digits > 0 => Ok(None),
        [b'\r', b'\n', after @ ..] if digits > 0 => {
            let digit = |n, digit: &u8| 10 * n + usize::from(digit - b'0');
            Ok(Some((rest[..digits].iter().fold(0, digit), after)))
        }
        _ => Err(NotResp),
    }
}
