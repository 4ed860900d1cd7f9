//! The node plugin as a container orchestrator meets it: the process itself, in a krbd
//! node, asked through gRPC, killed, cut off from its clusters, and watched meanwhile.
//!
//! What a reader gets wrong: most files here run in the lab's node, each test of them in a
//! process of its own. This file runs outside and is the hand on the clusters: a part
//! inside says what it wishes (`process::ask`) and waits until it is done.

// A test says by a panic that something is not as it must be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod cost;
mod outage;
mod process;
#[path = "../support/mod.rs"]
mod support;
mod sweep;
mod volume;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

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

/// Runs a part inside and fulfils its wishes.
fn run_with(part: &Inside<'_>, test: &str, mut fulfil: impl FnMut(&str)) -> String {
    let mut running = part.command(test).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut answers = running.stdin.take().unwrap();
    let mut said = String::new();
    for line in BufReader::new(running.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        println!("{line}");
        if let Some(wish) = line.strip_prefix(process::WISH) {
            fulfil(wish);
            writeln!(answers, "done").unwrap();
        }
        said.push_str(&line);
        said.push('\n');
    }
    let status = running.wait().unwrap();
    assert!(status.success() && said.contains("1 passed"), "{test}: {status}");
    said
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
    cost::publishing_and_measuring_costs_no_operation_and_no_process,
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

/// Runs a part that pauses the I/O of the first cluster or stops its monitor, and lets it
/// go on again.
fn with_outages(test: &str) {
    let cluster = lab().cluster(0);
    let (mut paused, mut stopped) = (None, None);
    run_with(&inside(), test, |wish| match wish {
        "pause" => paused = Some(cluster.pause()),
        "stop the monitor" => stopped = Some(cluster.stop_monitor()),
        "resume" => {
            paused = None;
            stopped = None;
        }
        other => panic!("{test} wishes {other}"),
    });
}

#[test]
fn io_that_is_paused_hangs_no_call_and_no_other_volume() {
    with_outages("outage::osd_paused");
}

#[test]
fn a_monitor_that_is_silent_hangs_no_call_and_no_other_volume() {
    with_outages("outage::monitor_stopped");
}

#[test]
fn a_cluster_that_is_cut_off_hangs_no_call_and_no_other_volume() {
    with_outages("outage::unreachable");
}
