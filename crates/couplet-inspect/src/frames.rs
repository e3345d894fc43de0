//! The tables of a loop as of earlier times, in the header of a recording: each as the changes since
//! the one before, like the messages of a page.

use std::sync::Arc;

use couplet_core::hooks::SortedMap;
use couplet_core::hooks::inspector::Frame;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use crate::rows::{LoopName, Rows, VIEWS};
use crate::view::{Version, View};

/// The tables as of a time.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FrameHeader {
    /// Seconds since 1970.
    time: f64,
    /// Rows that a limit left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    left_out: usize,
    /// The changes of each view since the last frame.
    views: Box<RawValue>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The frames of a loop as changes; `at` gives the time of ticks, in seconds since 1970.
pub(crate) fn headers(
    frames: &[Arc<Frame>],
    of: LoopName,
    at: impl Fn(u64) -> f64,
) -> Vec<FrameHeader> {
    let mut views: SortedMap<&'static str, View> =
        VIEWS.into_iter().map(|name| (name, View::default())).collect();
    let Some(first) = frames.iter().find_map(|frame| frame.snapshot.at) else { return Vec::new() };
    let header = |(number, frame): (u64, &Arc<Frame>)| {
        // The end of a loop has no time; rates are not measured there.
        let version = Version { number, now: frame.snapshot.at.unwrap_or(first) };
        Rows { of, version, views: &mut views }.add(&frame.snapshot);
        views.values_mut().for_each(|view| view.end_version(number));
        let changes = Tables { views: &views, after: number - 1 };
        // Serialization fails only for maps with other keys than texts; the rows have none.
        let views = to_raw_value(&changes).unwrap_or_default();
        FrameHeader { time: at(frame.ticks), left_out: frame.left_out, views }
    };
    (1..).zip(frames).map(header).collect()
}

/// The changes of all views but connections, which the events show.
struct Tables<'a> {
    views: &'a SortedMap<&'static str, View>,
    after: u64,
}

impl Serialize for Tables<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tables = self.views.iter().filter(|(name, _)| **name != "connections");
        let changes = tables.map(|(name, view)| (name, view.changes(self.after)));
        serializer.collect_map(changes.filter(|(_, changes)| !changes.is_empty()))
    }
}
