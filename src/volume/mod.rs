//! THE DOMAIN'S WORDS: what both wings, `controller` and `node`, speak of.
//!
//! In reading order: what is asked (`request`, `capability`, `parameters`, `size`,
//! `secrets`), how a call becomes work (`operation`), and how a name or a handle leads to an
//! image (`id`, `journal`, `image`). No tonic, no C, no syscalls; nothing of the wings.

pub mod capability;
pub mod error;
pub mod id;
pub mod map_options;
pub mod mount_flags;
pub mod parameters;
pub mod request;
pub mod rights;
pub mod secrets;
pub mod servable;
pub mod size;

pub mod operation;

pub mod image;
pub mod journal;

pub use error::{Error, Kind, Result};
