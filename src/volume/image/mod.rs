//! The image behind a volume: found (`resolve`), who has it open (`watch`), which of its
//! data objects exist (`data_objects`), and which of its ancestors' show through (`ancestors`).
//! Nothing here changes an image.

pub mod ancestors;
pub mod data_objects;
pub mod resolve;
pub mod watch;
