//! The image behind a volume: found (`resolve`), who has it open (`watch`) or owns its lock
//! (`lock_owner`), and which of its data objects exist (`data_objects`). Nothing here changes
//! an image.

pub mod data_objects;
pub mod lock_owner;
pub mod resolve;
pub mod watch;
