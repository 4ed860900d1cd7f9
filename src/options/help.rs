//! What `--help` and `--version` print.

use super::table::{FLAGS, Sort};

/// The text of `--help`.
pub fn help() -> String {
    let mut text = "rbd-csi: a CSI driver that gives Kubernetes pods block volumes from Ceph RBD\n\n\
        usage: rbd-csi --type=rbd --nodeid=NAME [--controllerserver=true] [--nodeserver=true] [FLAGS]\n\
        \x20      rbd-csi --type=liveness --endpoint=unix://PATH --metricsport=PORT\n\n\
        Flags are written -flag or --flag, with =VALUE or the value behind (booleans: only =).\n\n"
        .to_owned();
    for flag in FLAGS.iter().filter(|flag| !flag.help.is_empty()) {
        let default = if flag.default.is_empty() || flag.sort == Sort::Switch {
            String::new()
        } else {
            format!(" [{}]", flag.default)
        };
        text.push_str(&format!("  --{:<18} {}{default}\n", flag.name, flag.help));
    }
    let ignored: Vec<_> = FLAGS.iter().filter(|flag| flag.help.is_empty()).map(|flag| flag.name).collect();
    text.push_str("\nAccepted for the sake of ceph-csi's manifests, without effect in this version:\n ");
    let mut width = 1;
    for name in ignored {
        if width + name.len() > 98 {
            text.push_str("\n ");
            width = 1;
        }
        text.push_str(&format!(" --{name}"));
        width += name.len() + 3;
    }
    text.push('\n');
    text
}

/// The text of `--version`: the lines that ceph-csi prints.
pub fn version() -> String {
    let kernel = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    format!(
        "Cephcsi Version: {}\nGit Commit: {}\nGo Version: none (Rust {})\nCompiler: rustc\nPlatform: {}/{}\nKernel: {kernel}\n",
        env!("CARGO_PKG_VERSION"),
        env!("RBD_CSI_COMMIT"),
        env!("CARGO_PKG_RUST_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
    )
}
