//! What Couplet needs of the system and neither std nor a safe crate offers.
//!
//! The only crate with `unsafe`: one file a mechanism, small functions, a SAFETY line for each
//! block. It knows nothing of `couplet`.

pub mod interfaces;
pub mod signals;
pub mod unsent;
