//! Models of the framers, too simple to be wrong, and their events.

pub mod bodies;
pub mod naive;
pub mod notes;
