//! RADOS operations that a driver has sent, counted by its own librados client.

use std::process::Command;

use super::driver::Site;

/// Operations since the start of that driver, over all its connections. The site's
/// ceph.conf must ask for an admin socket: `admin_socket = <site>/$pid.$cctid.asok`.
pub fn sent(site: &Site, pid: u32) -> u64 {
    let prefix = format!("{pid}.");
    let mut total = 0;
    let mut found = false;
    for entry in std::fs::read_dir(site.path("")).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(&prefix) || !name.ends_with(".asok") {
            continue;
        }
        let output = Command::new("ceph")
            .arg("--admin-daemon")
            .arg(entry.path())
            .args(["perf", "dump"])
            .output()
            .unwrap();
        let dump: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a perf dump");
        total += dump["objecter"]["op_send"].as_u64().expect("the objecter counts");
        found = true;
    }
    assert!(found, "process {pid} has an admin socket in {}", site.path("").display());
    total
}
