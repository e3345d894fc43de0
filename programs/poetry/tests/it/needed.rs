//! The requirements of tests, without the certificates that other tests make.

#[path = "../../../../crates/couplet-core/tests/needed/folders.rs"]
#[allow(dead_code, reason = "other tests use more")]
mod folders;
#[path = "../../../../crates/couplet-core/tests/needed/programs.rs"]
#[allow(dead_code, reason = "other tests use more")]
mod programs;

pub(crate) use folders::Folder;
pub(crate) use programs::{has, missing};
