//! The rules of the house that can be checked by looking: who may import whom, and
//! where dangerous things may stand. A rule that nothing checks is a wish.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "rules/door.rs"]
mod door;

use std::path::{Path, PathBuf};

/// A piece of text, where it may stand (beginnings of paths below src/), and why.
struct Rule {
    text: &'static str,
    only_in: &'static [&'static str],
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        text: "tonic::",
        only_in: &["csi/", "server", "telemetry/", "liveness.rs", "registration", "start.rs"],
        why: "the door is the only place that knows gRPC",
    },
    Rule {
        text: "unsafe {",
        only_in: &["ceph/", "host/", "main.rs"],
        why: "only the leaves touch C and the kernel",
    },
    Rule { text: "extern \"C\"", only_in: &["ceph/"], why: "declarations of C stand in ceph/" },
    Rule { text: "extern \"C\" {", only_in: &["ceph/ffi.rs"], why: "tests/rules/door.rs reads one file" },
    Rule { text: "Command::new", only_in: &["host/"], why: "programs are started behind host/command.rs" },
    Rule { text: "libblkid_rs", only_in: &["host/"], why: "probing is behind host/probe.rs" },
    Rule { text: "sys_mount", only_in: &["host/"], why: "mounting is behind host/mount.rs" },
    Rule { text: "env::var", only_in: &["options", "fault.rs"], why: "one reader of the environment" },
    Rule { text: "use ::kube::", only_in: &["kube/"], why: "the Kubernetes API is asked behind kube/" },
    Rule { text: "use kube::", only_in: &["kube/"], why: "the Kubernetes API is asked behind kube/" },
    Rule { text: "k8s_openapi", only_in: &["kube/"], why: "the Kubernetes API is asked behind kube/" },
    Rule { text: "env::args", only_in: &["main.rs", "host/child.rs"], why: "one reader of the arguments" },
    Rule { text: "use nix::", only_in: &["host/", "server", "main.rs"], why: "syscalls are the leaf's" },
];

/// What a leaf may take of ours.
const CROSS_CUTTING: [&str; 5] = ["causes", "errno", "fault", "metrics", "secret"];

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let path: PathBuf = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                files.push((name, std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(files.len() > 30, "the sources were found");
    files
}

/// The lines of a file that are code, without the tests beside it.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
    text[..end].lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[test]
fn dangerous_things_stand_where_they_belong() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        for rule in RULES.iter().filter(|rule| !rule.only_in.iter().any(|place| name.starts_with(place))) {
            for (number, _) in code(&text).filter(|(_, line)| line.contains(rule.text)) {
                found.push(format!("src/{name}:{}: {:?}: {}", number + 1, rule.text, rule.why));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn leaves_import_nothing_of_ours() {
    let mut found = Vec::new();
    let is_leaf = |name: &str| ["ceph/", "host/", "kube/"].iter().any(|leaf| name.starts_with(leaf));
    for (name, text) in sources().into_iter().filter(|(name, _)| is_leaf(name)) {
        for (number, line) in code(&text) {
            for (at, _) in line.match_indices("crate::") {
                let path = line[at + 7..].trim_start_matches('{');
                let own = name.split('/').next().unwrap_or_default();
                let first = path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                let allowed = first == own || CROSS_CUTTING.contains(&first) || first.is_empty();
                if !allowed {
                    found.push(format!("src/{name}:{}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Rooms that must not know each other: files below the first never name the second.
const STRANGERS: [(&str, &str); 8] = [
    ("controller/", "node"),
    ("node/", "controller"),
    ("volume/", "controller"),
    ("volume/", "node"),
    ("volume/", "csi"),
    ("controller/", "csi"),
    ("node/", "csi"),
    ("node/", "kube"),
];

#[test]
fn the_wings_and_their_words_keep_apart() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        for (_, stranger) in STRANGERS.iter().filter(|(room, _)| name.starts_with(room)) {
            let path = format!("crate::{stranger}::");
            for (number, line) in code(&text).filter(|(_, line)| line.contains(&path)) {
                found.push(format!("src/{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn functions_fit_on_a_screen() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let head = line.trim_start();
            let is_function = head.contains("fn ") && head.contains('(') && !head.starts_with("//");
            if !is_function || head.contains("= |") {
                continue;
            }
            let closing = format!("{}}}", " ".repeat(indent));
            let Some(length) = lines[start..].iter().position(|line| *line == closing) else { continue };
            if length > 70 {
                found.push(format!("src/{name}:{}: {length} lines", start + 1));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn nothing_is_left_to_do() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if ["TODO", "FIXME", "XXX"].iter().any(|word| line.contains(word)) {
                found.push(format!("src/{name}:{}", number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
