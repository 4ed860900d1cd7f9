//! The node plugin as a container orchestrator meets it: the process itself, in a krbd
//! node, asked through gRPC, killed, cut off from its clusters, and watched meanwhile.
//!
//! What a reader gets wrong: most files here run in the lab's node, each test of them in a
//! process of its own. This file runs outside.

// A test says by a panic that something is not as it must be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod process;
#[path = "../support/mod.rs"]
mod support;
mod sweep;
mod volume;

use support::inside::Inside;
use support::lab::{Lab, LabSpec};

fn lab() -> &'static Lab {
    Lab::shared(LabSpec { clusters: 2, nodes: 2 })
}

/// A part that knows both clusters.
fn inside() -> Inside<'static> {
    let (a, b) = (lab().cluster(0), lab().cluster(1));
    Inside::new(lab()).of(a).with("B_MONITORS", &b.monitors).with("B_KEY", &b.admin_key)
}

macro_rules! runs_inside {
    ($($file:ident::$test:ident),* $(,)?) => {
        $(#[test]
        fn $test() {
            println!("{}", inside().run(concat!(stringify!($file), "::", stringify!($test))));
        })*
    };
}

runs_inside!(
    sweep::staging_a_blank_ext4_is_resumed_after_a_kill_at_every_step,
    sweep::staging_a_blank_xfs_is_resumed_after_a_kill_at_every_step,
    sweep::staging_a_raw_device_is_resumed_after_a_kill_at_every_step,
    sweep::staging_ext4_with_data_is_resumed_after_a_kill_at_every_step,
    sweep::staging_xfs_with_data_is_resumed_after_a_kill_at_every_step,
    sweep::unstaging_ext4_is_resumed_after_a_kill_at_every_step,
    sweep::unstaging_xfs_is_resumed_after_a_kill_at_every_step,
    sweep::unstaging_a_raw_device_is_resumed_after_a_kill_at_every_step,
    sweep::publishing_is_resumed_after_a_kill_at_every_step,
);
