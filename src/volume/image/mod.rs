//! The image behind a volume: found (`resolve`), who has it open (`watch`) or owns its lock
//! (`lock_owner`), what it was cloned from (`chain`), which of its data objects exist
//! (`data_objects`), which of its ancestors' show through (`ancestors`), what its name says (`name`).
//! Nothing here changes an image.

pub mod ancestors;
pub mod chain;
pub mod data_objects;
pub mod lock_owner;
pub mod name;
pub mod resolve;
pub mod watch;
