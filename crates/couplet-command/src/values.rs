//! Values of the command line that several commands take: times, sizes, flags and secrets.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{BoolValueParser, TypedValueParser};

/// Parses a time above 0, in seconds.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let expected = "a number of seconds above 0 is expected here";
    time(text, expected)
        .and_then(|time| if time.is_zero() { Err(expected.to_owned()) } else { Ok(time) })
}

/// Parses a time in seconds, 0 included: see [`or_never`].
pub fn seconds_or_none(text: &str) -> Result<Duration, String> {
    time(text, "a number of seconds, 0 or more, is expected here")
}

fn time(text: &str, expected: &str) -> Result<Duration, String> {
    if let Ok(whole) = text.parse() {
        return Ok(Duration::from_secs(whole));
    }
    let seconds = text.parse::<f64>().ok().filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
    let seconds = seconds.ok_or_else(|| expected.to_owned())?;
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| format!("at most {} seconds fit here", u64::MAX))
}

/// Maps a timeout of 0 to `None`.
pub fn or_never(timeout: Duration) -> Option<Duration> {
    Some(timeout).filter(|timeout| !timeout.is_zero())
}

/// Parses a number of bytes.
pub fn bytes(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "a number of bytes is expected here".to_owned())
}

/// Parses a number of bytes above 0.
pub fn one_or_more(text: &str) -> Result<u64, String> {
    let number = bytes(text).ok().filter(|number| *number > 0);
    number.ok_or_else(|| "a number of bytes, 1 or more, is expected here".to_owned())
}

/// A text with a password as the user wrote it. The command checks the text, because an error of the
/// command line's parser would show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Secret, Infallible> {
        Ok(Secret(text.to_owned()))
    }
}

/// Without the text.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A flag that selects `on` instead of `off`.
pub fn flag<T>(off: T, on: T) -> impl TypedValueParser<Value = T>
where
    T: Clone + Send + Sync + 'static,
{
    BoolValueParser::new().map(move |is_on| if is_on { on.clone() } else { off.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_finite_and_not_negative() {
        assert_eq!(seconds_or_none("0"), Ok(Duration::ZERO));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["", "-1", "nan", "inf", "soon"] {
            assert!(seconds_or_none(bad).unwrap_err().contains("is expected here"), "{bad}");
        }
        assert_eq!(seconds("18446744073709551615"), Ok(Duration::from_secs(u64::MAX)));
        for long in ["18446744073709551616", "1e300"] {
            assert!(seconds(long).unwrap_err().contains("at most 18446744073709551615"), "{long}");
        }
        assert!(seconds("0").is_err());
    }

    #[test]
    fn a_part_has_at_least_one_byte() {
        assert_eq!(one_or_more("1"), Ok(1));
        for bad in ["0", "-1", "", "ten", "1.5"] {
            assert!(one_or_more(bad).is_err(), "{bad}");
        }
    }
}
