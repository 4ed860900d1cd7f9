//! LEAF: this Linux node: kernel devices, mounts, file systems, child processes.

pub mod bind;
pub mod boot;
pub mod cgroup;
pub mod child;
pub mod command;
pub mod device;
mod device_numbers;
pub mod filesystem;
pub mod foresight;
pub mod fs_kind;
pub mod greeting;
pub mod growth;
pub mod hardening;
pub mod helper;
pub mod holders;
pub mod job;
pub mod keyring;
pub mod krbd;
mod map_line;
pub mod memory;
mod mkfs_options;
pub mod module;
pub mod mount;
pub mod mount_options;
pub mod mountinfo;
pub mod netns;
pub mod pids;
pub mod place;
pub mod probe;
pub mod processes;
pub mod rbd_program;
pub mod replay;
pub mod superblock;
pub mod thread;
pub mod utab;

mod error;
mod step;

pub use error::{HostError, Result};
pub use step::{step, step_on_thread};
