//! What the integration tests share. Each test file uses a part of it.
//!
//! Lives here: access to the lab (`lab`). A test's own steps stay in its file.

// A test file compiles all of this and uses some of it; and a test says by a panic
// that the lab is not as it must be.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod bench;
pub mod driver;
pub mod fixture;
pub mod fleet;
pub mod inside;
pub mod lab;
pub mod lonely;
pub mod memory;
pub mod ops;
pub mod page;
pub mod pool;
pub mod random;
pub mod requests;
pub mod snapshots;
pub mod spy;
pub mod volume;
pub mod whole;
