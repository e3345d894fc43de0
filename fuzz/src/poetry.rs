//! The program's protocols, included from its source files.

#[path = "../../crates/couplet-cli/src/poetry/answer.rs"]
pub(crate) mod answer;
#[path = "../../crates/couplet-cli/src/poetry/ask.rs"]
pub(crate) mod ask;
#[path = "../../crates/couplet-cli/src/poetry/catalogue.rs"]
pub(crate) mod catalogue;
#[path = "../../crates/couplet-cli/src/poetry/heap_trim.rs"]
pub(crate) mod heap_trim;
#[path = "../../crates/couplet-cli/src/poetry/named.rs"]
pub(crate) mod named;
#[path = "../../crates/couplet-cli/src/poetry/order.rs"]
pub(crate) mod order;
#[path = "../../crates/couplet-cli/src/poetry/recital.rs"]
pub(crate) mod recital;
#[path = "../../crates/couplet-cli/src/poetry/transform_server.rs"]
pub(crate) mod transform_server;
#[path = "../../crates/couplet-cli/src/poetry/transformations.rs"]
pub(crate) mod transformations;
#[path = "../../crates/couplet-cli/src/poetry/transforming.rs"]
pub(crate) mod transforming;
