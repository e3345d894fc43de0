//! `couplet inspect`, which shows the inspector of a running program; that of this process is
//! `couplet_command::inspecting`.

mod chain;
mod fetching;
mod fields;
mod opening;
#[cfg(target_os = "linux")]
mod process;
mod screen;
mod source;
mod text;

pub(crate) use couplet_command::inspecting::{Inspecting, end, inspected, start};
pub(crate) use fetching::{Inspect, run, save as save_recording};
pub(crate) use opening::open;
