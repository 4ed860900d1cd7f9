//! What is changed of a volume that exists: it grows (`expand`, `grow`), or stops depending on the images
//! that it was cloned from (`depth`, `flatten`).

pub mod depth;
pub mod expand;
pub mod flatten;
pub mod grow;
