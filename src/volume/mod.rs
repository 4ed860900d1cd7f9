//! THE DOMAIN: what happens to a volume. No tonic, no C, no syscalls.
//!
//! In reading order: what is asked (`request`, `capability`, `parameters`), how
//! a call becomes work (`operation`), the controller (`controller` → `provision`,
//! `delete`, `purge` over the `journal`), the node (`mapping`, `blank`…).

pub mod capability;
pub mod error;
pub mod id;
pub mod parameters;
pub mod request;
pub mod secrets;
pub mod size;

pub mod operation;
pub mod resolve;

pub mod attach;
mod compare;
pub mod controller;
mod delete;
pub mod journal;
mod leftover;
pub mod provision;
mod purge;
mod watch;

pub mod node;

pub mod blank;
pub mod data_objects;
pub mod format_mark;
pub mod host_error;
pub mod in_use;
pub mod map_answers;
pub mod map_options;
mod map_target;
pub mod mapping;
pub mod monitors;
pub mod mount_flags;
mod other_cluster;
pub mod publish;
pub mod stage;
pub mod staged;
pub mod stash;
pub mod stats;
pub mod unstage;

pub use delete::Deleted;
pub use error::{Error, Kind, Result};
