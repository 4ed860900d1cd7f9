//! The kernel module, before anything has asked for it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The node must be fresh: in another, a volume has loaded the module already.
#[test]
#[ignore = "runs inside a node"]
fn a_driver_that_starts_loads_it() {
    let bus = Path::new("/sys/bus/rbd");
    assert!(!bus.exists(), "the node is not fresh: it has rbd already");
    let folder = tempfile::tempdir().unwrap();
    let at = |flag: &str, file: &str| format!("--{flag}={}", folder.path().join(file).display());
    let endpoint = format!("--endpoint=unix://{}", folder.path().join("csi.sock").display());
    let mut driver = Command::new(env!("CARGO_BIN_EXE_rbd-csi"))
        .args(["--type=rbd", "--nodeserver=true", "--nodeid=node-1"])
        .args([endpoint, at("cluster-config", "config.json"), at("pluginpath", "plugins")])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while !bus.exists() {
        assert!(Instant::now() < until, "no rbd within 30 s of the start");
        std::thread::sleep(Duration::from_millis(50));
    }
    driver.kill().unwrap();
    driver.wait().unwrap();
}
