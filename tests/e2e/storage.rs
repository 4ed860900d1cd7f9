//! Kubernetes' own external-storage suite against the deployed driver, and its result as a
//! page of docs/.
//!
//! Lives here: how it is run. What came of it is read and written by `storage/report.rs`.
//!
//! What a reader gets wrong: most of the suite's cases skip themselves where the driver's
//! definition (storage/driver.yaml) lacks a capability. Those are counted apart, and a run
//! with no case that passed has failed.

mod report;

use std::path::PathBuf;

use super::run::Test;
use super::space::Space;
use super::support::lab::succeed;
use super::world::checkout;
use report::Report;

pub const TEST: Test =
    Test::new("storage", "Kubernetes' external-storage suite for the capabilities of today", steps);

/// Not ours: what disturbs a node or the other cases, what waits for its own sake, and Windows.
/// Snapshots of groups are not here yet.
const SKIP: &str = r"\[Disruptive\]|\[Serial\]|\[Slow\]|Feature:Windows|ntfs|stress|VolumeGroupSnapshot";
/// Mostly they wait.
const PROCESSES: &str = "--procs=4";
const DEFINITION: &str = "tests/e2e/storage/driver.yaml";
const PAGE: &str = "docs/e2e-storage.md";

fn steps(space: &Space) {
    let world = space.world;
    let tools = PathBuf::from(world.lab.lab(&["k8s-tools", "--e2e"]).lines().last().unwrap());
    let folder = world.lab.dir.join("storage-suite");
    std::fs::create_dir_all(&folder).unwrap();
    let json = folder.join("report.json");
    let mut command = world.lab.command(tools.join("ginkgo"));
    command.args(["run", PROCESSES, "--no-color", "--timeout=90m", "--silence-skips"]);
    command.args(["--output-dir", folder.to_str().unwrap(), "--json-report=report.json"]);
    command.args([&focus(), "--skip", SKIP]).arg(tools.join("e2e.test")).args(["--", "--provider=skeleton"]);
    command.arg(format!("--kubeconfig={}", world.lab.kubeconfig().display()));
    command.arg(format!("--kubectl-path={}", world.kubectl.program().display()));
    command.arg("--num-nodes=2").arg(format!("-storage.testdriver={}", checkout(DEFINITION).display()));
    let output = folder.join("output");
    let log = std::fs::File::create(&output).unwrap();
    let status = command.stdout(log.try_clone().unwrap()).stderr(log).status().unwrap();
    let tail = || succeed(std::process::Command::new("tail").args(["-n", "60"]).arg(&output));
    assert!(json.is_file(), "the suite wrote no report ({status}):\n{}", tail());
    let version = world.kubectl.get_raw("/version")["gitVersion"].as_str().unwrap().to_owned();
    let report = Report::read(&json).of(&version);
    println!("  {}", report.summary());
    if narrowed().is_none() {
        std::fs::write(checkout(PAGE), report.page()).unwrap();
    }
    assert!(status.success() && report.is_success(), "{status}\n{}\n{}", report.failures(), tail());
}

/// What narrows the suite, for whoever looks into one case; such a run writes no page.
fn narrowed() -> Option<String> {
    std::env::var("E2E_STORAGE_FOCUS").ok()
}

fn focus() -> String {
    let more = narrowed().map(|more| format!(".*{more}")).unwrap_or_default();
    format!("--focus=External.Storage{more}")
}
