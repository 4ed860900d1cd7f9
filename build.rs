//! The build script; each part of the tree that needs one has its own file in `build/`.

#[path = "build/ceph.rs"]
mod ceph;
#[path = "build/proto.rs"]
mod proto;

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build");
    commit();
    ceph::build();
    proto::build()
}

/// The commit that `--version` names; a build outside a git checkout is told it, or has none.
fn commit() {
    println!("cargo:rerun-if-env-changed=RBD_CSI_COMMIT");
    // In a worktree HEAD is not in .git; and a file that is not there would make every build a new one.
    if let Some(head) = git(&["rev-parse", "--git-path", "HEAD"]).filter(|head| Path::new(head).exists()) {
        println!("cargo:rerun-if-changed={head}");
    }
    let told = std::env::var("RBD_CSI_COMMIT").ok();
    let commit = told.or_else(|| git(&["rev-parse", "--short=12", "HEAD"]));
    println!("cargo:rustc-env=RBD_CSI_COMMIT={}", commit.unwrap_or_else(|| "unknown".to_owned()));
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = std::process::Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
