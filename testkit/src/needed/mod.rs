//! Requirements of tests: programs, Python packages, and folders. A missing requirement is a
//! visible skip for a developer, and a failure in CI.

#[cfg(feature = "certificates")]
mod certificates;
mod folders;
mod programs;

#[cfg(feature = "certificates")]
pub use certificates::SelfSigned;
pub use folders::Folder;
#[cfg(all(unix, feature = "system"))]
pub use folders::inheritable;
pub use programs::{Venv, built, has, has_ipv6, loopbacks, missing, skipped, succeed};
