//! The program `couplet` as a benchmark's server, and the processors of server and load.

use std::io::{self, Error};
use std::path::{Path, PathBuf};
use std::process::Command;

#[cfg(all(target_os = "linux", feature = "system"))]
pub use super::processors::{pin, processors};

/// The program `couplet` from the same build as this benchmark: see [`build`].
pub fn program(own: &Path) -> PathBuf {
    let name = format!("couplet{}", std::env::consts::EXE_SUFFIX);
    own.ancestors().nth(2).map_or_else(|| PathBuf::from(&name), |folder| folder.join(&name))
}

/// Builds the program `couplet` in this benchmark's profile and folder, unless it is up to date.
pub fn build() -> io::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "-p", "couplet-cli"]);
    if let Some(folder) = std::env::current_exe()?.ancestors().nth(2) {
        let profile = folder.file_name().unwrap_or_default();
        // The profiles `bench` and `release` share a folder.
        let profile = if profile == "release" { "bench".as_ref() } else { profile };
        build.arg("--profile").arg(profile);
        build.arg("--target-dir").args(folder.parent());
    }
    match build.status()?.success() {
        true => Ok(()),
        false => Err(Error::other("the program couplet, whose echo is measured, does not build")),
    }
}
