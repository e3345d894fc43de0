//! `couplet inspect` shows the inspector of another process; `couplet_command::inspecting` starts one
//! in this process.

mod fetching;
mod fields;
mod opening;
#[cfg(target_os = "linux")]
mod process;
#[cfg(feature = "screen")]
mod screen;
mod source;
mod text;

pub(crate) use couplet_command::inspecting::{Inspecting, end, inspected, start};
pub(crate) use fetching::{Inspect, run, save as save_recording};
#[cfg(feature = "sim")]
pub(crate) use opening::open;
