//! What docs/troubleshooting.md quotes must be what is really said: of ours each part stands in
//! src, and what is Kubernetes', a sidecar's or a program's is listed here.
//!
//! What a reader gets wrong: a quote has gaps. They are "…", what stands for a name, and ": ",
//! by which a message is put together of a fact and its cause.

use std::path::Path;

use super::{path, read};

const PAGE: &str = "docs/troubleshooting.md";

/// Words that stand for what differs from case to case.
const EXAMPLES: [&str; 5] = ["ADDRESS", "CreateVolume", "userKey", "client.", "pid"];

/// What others say. Kubernetes 1.36 and the sidecars of the manifests were read for it.
const OTHERS: &[&str] = &[
    "Waiting for a volume to be created …",
    "WaitForFirstConsumer",
    "error getting secret …: … not found",
    "FailedScheduling",
    "pod has unbound immediate PersistentVolumeClaims",
    "… ReadWriteOncePod …  already in-use by another pod",
    "FailedAttachVolume",
    "Multi-Attach error for volume …",
    "timed out waiting for external-attacher of … CSI driver",
    "FailedMount",
    "ProvisioningFailed",
    "driver name rbd.csi.ceph.com not found in the list of registered CSI drivers",
    "persistentvolume … is still attached to node …",
    "configmap \"ceph-csi-config\" not found",
    "hostPath type check failed",
    "FailedCreate",
    "violates PodSecurity",
    "insufficient quota to match these scopes",
    "exceeded quota",
    // OpenShift's.
    "unable to validate against any security context constraint",
    // kmod's.
    "could not insert 'rbd': Function not implemented",
    "error: the server doesn't have a resource type \"volumesnapshot\"",
    "cannot find default snapshot class",
    "snapshot … not Ready",
    "not bound",
    "requested volume size … is less than the size … for the source snapshot",
    "requested volume … modifies the mode of the source volume",
    "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    "FileSystemResizePending",
    "VolumeResizeFailed",
];

/// The codes, as Kubernetes writes them.
const CODES: [&str; 3] = ["PermissionDenied", "ResourceExhausted", "DeadlineExceeded"];

/// The texts of the page's tables that somebody may have before his eyes: all columns but the
/// last, which is what to do.
fn quotes(page: &str) -> Vec<String> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let seen = rows.filter_map(|row| row.rsplit_once(" | ").map(|(seen, _)| seen));
    seen.flat_map(|cells| cells.split('`').skip(1).step_by(2).map(str::to_owned)).collect()
}

/// All code, with literals that go over several lines made whole.
fn code(folder: &Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            code(&path, into);
        } else {
            let text = std::fs::read_to_string(&path).unwrap();
            let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
            for line in text[..end].lines().filter(|line| !line.trim_start().starts_with("//")) {
                match line.strip_suffix('\\') {
                    Some(begun) => into.push_str(begun),
                    None => into.extend([line, "\n"]),
                }
            }
        }
    }
}

/// The parts of a quote that must stand in a row.
fn parts(quote: &str) -> Vec<&str> {
    let mut parts = vec![quote];
    for gap in EXAMPLES.into_iter().chain(["…", ": "]) {
        parts = parts.into_iter().flat_map(|part| part.split(gap)).collect();
    }
    parts
        .into_iter()
        .map(|part| part.trim_matches([' ', ';', ',', '\'']))
        .filter(|part| part.len() > 3)
        .collect()
}

#[test]
fn the_troubleshooting_page_quotes_what_is_said() {
    let mut said = String::new();
    code(&path("src"), &mut said);
    // A literal's continuation begins with the blanks of its indentation.
    let said = said.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    let quotes = quotes(&read(PAGE));
    assert!(quotes.len() > 40, "the tables were found: {quotes:?}");
    let mut wrong = Vec::new();
    for quote in quotes.iter().filter(|quote| !OTHERS.contains(&quote.as_str())) {
        let parts = parts(quote);
        if CODES.iter().any(|code| quote.starts_with(code)) {
            continue;
        }
        if parts.is_empty() {
            wrong.push(format!("{quote:?} has nothing that could be looked for"));
        }
        wrong.extend(
            parts.iter().filter(|part| !said.contains(*part)).map(|part| format!("{quote:?}: {part:?}")),
        );
    }
    assert!(wrong.is_empty(), "{PAGE} quotes what nothing in src says:\n{}", wrong.join("\n"));
    let stale: Vec<_> = OTHERS.iter().filter(|text| !quotes.iter().any(|quote| quote == *text)).collect();
    assert!(stale.is_empty(), "{PAGE} does not quote these any more: {stale:?}");
}
