//! Requirements of tests: programs, Python packages, and folders. A missing requirement is a
//! visible skip for a developer, and a failure in CI.

#![allow(dead_code, unused_imports, reason = "each test uses a part")]

mod files;
mod programs;

pub(crate) use files::{Folder, SelfSigned, inheritable};
pub(crate) use programs::{Venv, has, missing, skipped, succeed};
