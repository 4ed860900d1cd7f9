//! What is changed of a volume that exists: how many images it depends on (`depth`, `flatten`).

pub mod depth;
pub mod flatten;
