//! Making file systems on real krbd devices: what is blank is formatted, what is
//! not stays as it is, byte for byte, also after a kill.
//!
//! Each test starts itself again inside the lab's node, where the devices are:
//! [`in_the_node`]. The lab is shared by all of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod chains;
mod foreign;
mod fresh;
mod interrupted;
#[path = "../support/mod.rs"]
mod support;
mod volume;

use support::lab::{Lab, LabSpec};

/// Set inside the node.
const INSIDE: &str = "BLANK_TEST_INSIDE";

/// Runs this test again in a krbd node; `false` when this is already there.
fn in_the_node(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return false;
    }
    let lab = Lab::shared(LabSpec { clusters: 1, nodes: 1 });
    let (cluster, node) = (lab.cluster(0), lab.node(0));
    let program = std::env::current_exe().unwrap();
    let env = [
        (INSIDE, "1"),
        ("BLANK_TEST_MONITORS", cluster.monitors.as_str()),
        ("BLANK_TEST_KEY", cluster.admin_key.as_str()),
        ("RUST_BACKTRACE", "0"),
    ];
    let argv = [program.to_str().unwrap(), "--exact", test, "--nocapture", "--test-threads=1"];
    let status = node.command_with(&env, &argv).status().unwrap();
    assert!(status.success(), "{test} failed in the node: {status}");
    true
}
