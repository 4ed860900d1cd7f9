//! THE DOOR: the only place that knows tonic and the generated types.
//!
//! A call comes in as protobuf (`proto`), becomes one of the domain's requests
//! (`request`, held to CSI's rules by `limits`) with a deadline (`deadline`), and
//! goes out as an answer or as a status (`status`).

pub mod controller;
pub mod identity;
pub mod node;
mod routes;

mod capability;
pub mod deadline;
mod limits;
mod request;
pub mod status;
mod unserved;
mod usage;

pub mod proto;

pub use routes::routes;
