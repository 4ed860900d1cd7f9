//! The build script; each part of the tree that needs one has its own file in `build/`.

#[path = "build/ceph.rs"]
mod ceph;
#[path = "build/proto.rs"]
mod proto;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build");
    commit();
    ceph::build();
    proto::build()
}

/// The commit that `--version` names; a build outside a git checkout has none.
fn commit() {
    println!("cargo:rerun-if-changed=.git/HEAD");
    let output = std::process::Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let commit = output.ok().filter(|output| output.status.success());
    let commit = commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    println!("cargo:rustc-env=RBD_CSI_COMMIT={}", commit.unwrap_or_else(|| "unknown".to_owned()));
}
