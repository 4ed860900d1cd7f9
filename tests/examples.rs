//! `examples/rbd` without a cluster: what its scripts read and write, and whether its files
//! are in step with the driver.
//!
//! What a reader gets wrong: the scripts' functions are run in the bash that the scripts run
//! in. What they do to a Kubernetes is shown by the end-to-end tests.

#![allow(clippy::unwrap_used, reason = "a test reports and fails so")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn examples() -> PathBuf {
    root().join("examples/rbd")
}

/// Runs a line of bash after the scripts' functions were read; `$1` is the argument.
fn bash(line: &str, argument: &str) -> String {
    let plugin = examples().join("plugin");
    let program = format!(
        "cd {}; . ./shared.sh; . ./config.sh; . ./nodes.sh; check_settings; {line}",
        plugin.display()
    );
    let output = Command::new("bash").args(["-c", &program, "bash", argument]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{line}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn script(name: &str, arguments: &[&str]) -> Output {
    Command::new(examples().join(name)).args(arguments).current_dir("/").output().unwrap()
}

#[test]
fn the_scripts_take_for_json_what_the_driver_does() {
    let sample = r#"[{"clusterID": "a", "monitors": ["10.0.0.1:6789", "[v2:10.0.0.2:3300/0]"],
        "rbd": {"radosNamespace": "", "mirrorDaemonCount": 1}, "x": [-1.5e3, 0, true, false, null, {}, []]}]"#;
    let mut texts: Vec<String> = [
        "[]",
        "{}",
        "\"x\"",
        "7",
        " [ ] ",
        "",
        "[",
        "]",
        "[,]",
        "[1,]",
        "[1 2]",
        "[01]",
        "[1.]",
        "[.5]",
        "[+1]",
        "[1e]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{\"a\":1 \"b\":2}",
        "{a:1}",
        "{'a':1}",
        "[True]",
        "[nul]",
        "[tru,e]",
        r#"["\"","\\","\u00e9"]"#,
        r#"["\x"]"#,
        r#"["\u00g0"]"#,
        r#"["a]"#,
        "[1]]",
        "[[1]",
        "[1}{2]",
        "[1]x",
        "[#]",
        "// x\n[]",
        "[\"a\",\n\t\"b\"\r\n]",
    ]
    .map(str::to_owned)
    .to_vec();
    // Each text that comes of the sample by the loss of one sign.
    texts.extend((0..sample.len()).map(|n| format!("{}{}", &sample[..n], &sample[n + 1..])));
    texts.push(sample.to_owned());
    let separated = texts.join("\u{1}");
    let line = r#"IFS=$'\001' read -r -d '' -a texts <<<"$1" || true; for t in "${texts[@]}"; do
        [[ $t != "${texts[${#texts[@]}-1]}" ]] || t=${t%$'\n'}; echo "fault: $(json_fault "$t")"; done"#;
    let said = bash(line, &separated);
    let faults: Vec<&str> = said.lines().collect();
    assert_eq!(faults.len(), texts.len(), "an answer to each");
    for (text, fault) in texts.iter().zip(faults) {
        let is_json = serde_json::from_str::<serde_json::Value>(text).is_ok();
        assert_eq!(is_json, fault == "fault: ", "{text}: {fault}");
    }
}

#[test]
fn monitors_are_read_as_ceph_writes_them() {
    for (monitor, addresses) in [
        ("10.0.0.1:6789", "10.0.0.1 6789\n"),
        ("mon-a.example", "mon-a.example 6789\n"),
        ("[fd00::1]:3300", "fd00::1 3300\n"),
        ("[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0]", "10.0.0.1 3300\n10.0.0.1 6789\n"),
        ("[v2:[fd00::1]:3300/0,v1:[fd00::1]:6789/0]", "fd00::1 3300\nfd00::1 6789\n"),
        ("v1:10.0.0.1:6789", "10.0.0.1 6789\n"),
    ] {
        assert_eq!(bash(r#"monitor_addresses "$1""#, monitor), addresses, "{monitor}");
    }
}

#[test]
fn settings_get_into_every_place() {
    let manifest = "metadata:\n  namespace: default\nsubjects:\n  - namespace: default\nimage: \
        quay.io/rbd-csi/rbd-csi:v0.1.0\nargs: [\"--drivername=rbd.csi.ceph.com\"]\npath: /var/lib/kubelet/plugins\n";
    let line = r#"NAMESPACE=storage DRIVER_NAME=my.driver KUBELET_DIR=/data/kubelet IMAGE=registry:5000/x@sha256:1;
        printf %s "$1" | substitute"#;
    assert_eq!(
        bash(line, manifest),
        "metadata:\n  namespace: storage\nsubjects:\n  - namespace: storage\nimage: \
         registry:5000/x@sha256:1\nargs: [\"--drivername=my.driver\"]\npath: /data/kubelet/plugins\n"
    );
}

#[test]
fn each_script_helps_from_anywhere_and_refuses_what_it_does_not_know() {
    for name in ["plugin-deploy.sh", "plugin-teardown.sh", "exec-bash.sh", "logs.sh"] {
        let help = script(name, &["--help"]);
        assert!(help.status.success() && help.stdout.starts_with(b"usage: "), "{name}");
        for wrong in [&["--no-such-option"][..], &["--timeout", "soon"], &["--namespace=a b"], &["--image"]] {
            let refused = script(name, wrong);
            assert_eq!(refused.status.code(), Some(2), "{name} {wrong:?}: {refused:?}");
            assert!(refused.stdout.is_empty() && !refused.stderr.is_empty(), "{name} {wrong:?}");
        }
    }
}

/// The class is where people look for what there is.
#[test]
fn the_class_tells_of_every_parameter() {
    let class = std::fs::read_to_string(examples().join("storageclass.yaml")).unwrap();
    let names = std::fs::read_to_string(root().join("src/volume/parameters/names.rs")).unwrap();
    let known = names.split("const KNOWN").nth(1).and_then(|rest| rest.split("];").next()).unwrap();
    let known: Vec<&str> = known.split('"').skip(1).step_by(2).collect();
    assert!(known.len() > 20, "the names were found");
    for name in known {
        assert!(class.contains(name), "storageclass.yaml does not tell of {name}");
    }
}

/// The files are for one cluster, so that all of them can be applied as they stand.
#[test]
fn all_files_speak_of_one_cluster() {
    const CLUSTER: &str = "b9127830-b0cc-4e34-aa47-9d1a2e9949a8";
    let mut seen = 0;
    for file in std::fs::read_dir(examples()).unwrap().flatten() {
        let text = std::fs::read_to_string(file.path()).unwrap_or_default();
        for line in
            text.lines().filter(|line| line.trim_start().trim_start_matches('"').starts_with("clusterID"))
        {
            assert!(line.contains(CLUSTER), "{}: {line}", file.path().display());
            seen += 1;
        }
    }
    assert_eq!(seen, 3, "config map, class and static volume");
}
