//! [`Why`]: the reason why something waits, in words.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, Instant};

/// The reason why something waits, in words and times: "closing: 64 KiB unsent, no progress for
/// 3.2 s, cut in 26.8 s".
///
/// The times are kept as instants, so that the reason stays the same while time passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Why {
    parts: Vec<WhyPart>,
}

/// A part of a [`Why`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhyPart {
    /// Words.
    Text(Cow<'static, str>),
    /// The time since then.
    Since(Instant),
    /// The time until then.
    Until(Instant),
}

impl Why {
    /// The parts, which form a sentence without a full stop.
    pub fn parts(&self) -> &[WhyPart] {
        &self.parts
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The sentence at a time.
    pub fn at(&self, now: Instant) -> impl fmt::Display {
        fmt::from_fn(move |f| {
            self.parts.iter().try_for_each(|part| match part {
                WhyPart::Text(text) => f.write_str(text),
                WhyPart::Since(then) => write!(f, "{}", time(now.saturating_duration_since(*then))),
                WhyPart::Until(then) => write!(f, "{}", time(then.saturating_duration_since(now))),
            })
        })
    }

    /// Begins a clause: it is separated from the one before.
    pub(crate) fn clause(&mut self, text: impl Into<Cow<'static, str>>) -> &mut Why {
        if !self.is_empty() {
            self.text("; ");
        }
        self.text(text)
    }

    pub(crate) fn text(&mut self, text: impl Into<Cow<'static, str>>) -> &mut Why {
        self.parts.push(WhyPart::Text(text.into()));
        self
    }

    /// Adds the parts of another reason.
    pub(crate) fn extend(&mut self, other: &Why) -> &mut Why {
        self.parts.extend(other.parts.iter().cloned());
        self
    }

    pub(crate) fn since(&mut self, then: Instant) -> &mut Why {
        self.parts.push(WhyPart::Since(then));
        self
    }

    pub(crate) fn until(&mut self, then: Instant) -> &mut Why {
        self.parts.push(WhyPart::Until(then));
        self
    }

    /// Adds a deadline, if there is one: ", cut in 26.8 s".
    pub(crate) fn deadline(&mut self, text: &'static str, then: Option<Instant>) -> &mut Why {
        if let Some(then) = then {
            self.text(text).until(then);
        }
        self
    }
}

/// A time as people read it: `250 ms`, `3.2 s`, `5 min`, `2.5 h`.
pub fn time(time: Duration) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        let seconds = time.as_secs_f64();
        match seconds {
            ..1.0 => write!(f, "{} ms", time.as_millis()),
            ..120.0 => write!(f, "{seconds:.1} s"),
            ..7200.0 => write!(f, "{:.0} min", seconds / 60.0),
            _ => write!(f, "{:.1} h", seconds / 3600.0),
        }
    })
}

/// The name of a type without the paths of its modules: `Vec<String>`.
pub fn short_type(name: &str) -> impl fmt::Display {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    fmt::from_fn(move |f| {
        let mut rest = name;
        while !rest.is_empty() {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let (path, other) = rest.split_at(end);
            f.write_str(path.rsplit("::").next().unwrap_or(path))?;
            let next = other.find(is_word).unwrap_or(other.len());
            f.write_str(&other[..next])?;
            rest = &other[next..];
        }
        Ok(())
    })
}

/// A number of bytes as people read it: `812 bytes`, `64 KiB`, `1.5 MiB`.
pub fn size(bytes: usize) -> String {
    const KIB: usize = 1024;
    let in_units = |unit: usize| (bytes as f64 / unit as f64 * 10.0).round() / 10.0;
    match bytes {
        0..KIB => format!("{bytes} bytes"),
        KIB..0x10_0000 => format!("{} KiB", in_units(KIB)),
        0x10_0000..0x4000_0000 => format!("{} MiB", in_units(KIB * KIB)),
        _ => format!("{} GiB", in_units(KIB * KIB * KIB)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn a_reason_is_a_sentence_whose_times_pass() {
        let then = Instant::now();
        let mut why = Why::default();
        assert!(why.is_empty());
        why.clause("closing").clause("no progress for ").since(then);
        why.deadline(", cut in ", Some(then + Duration::from_secs(30))).deadline("never", None);
        let at = |millis| why.at(then + Duration::from_millis(millis)).to_string();
        assert_eq!(at(250), "closing; no progress for 250 ms, cut in 29.8 s");
        assert_eq!(at(3_200), "closing; no progress for 3.2 s, cut in 26.8 s");
        assert_eq!(at(600_000), "closing; no progress for 10 min, cut in 0 ms");
        assert_eq!(at(9_000_000), "closing; no progress for 2.5 h, cut in 0 ms");
        assert_eq!(why.clone(), why, "it does not change");
    }

    #[test]
    fn types_are_shown_without_the_paths_of_their_modules() {
        let short = |name| short_type(name).to_string();
        assert_eq!(short("chat::Chat"), "Chat");
        assert_eq!(short("a::Line<b::c::Orders<'_>, [u8; 3]>"), "Line<Orders<'_>, [u8; 3]>");
        assert_eq!(short("dyn a::Protocol + core::Send"), "dyn Protocol + Send");
        assert_eq!(short(""), "");
    }

    #[test]
    fn sizes_have_the_unit_that_fits() {
        assert_eq!(size(812), "812 bytes");
        assert_eq!(size(64 * 1024), "64 KiB");
        assert_eq!(size(1024 * 1024 - 1), "1024 KiB");
        assert_eq!(size(1536 * 1024), "1.5 MiB");
        assert_eq!(size(3 << 30), "3 GiB");
    }
}
