//! The key of the secrets is nowhere to be read, while a volume lives and after it.
//!
//! What a reader gets wrong: this process has the key in its own environment, from where
//! its volumes get it. So arguments are read of every process, and environments of the
//! driver and of what it started.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use super::process::{Plugin, ask};
use super::support::inside::{KEY, run, variable};
use super::support::spy::{Spy, text_of};
use super::volume::{Form, Volume, write};

const METRICS: u16 = 9680;

/// What shows of all processes, to somebody who spies.
fn look_at_processes(driver: u32, seen: &mut BTreeSet<String>) {
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        seen.insert(text_of(&process.path().join("cmdline")));
        if descends(pid, driver) {
            seen.insert(text_of(&process.path().join("environ")));
        }
    }
}

fn descends(mut pid: u32, from: u32) -> bool {
    while pid != from {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        match parent {
            Some(parent) if parent > 1 => pid = parent,
            _ => return false,
        }
    }
    true
}

/// Every file below, without entering what is mounted there.
fn files(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            files(&path, found);
        } else if kind.is_file() {
            found.push((path.display().to_string(), text_of(&path)));
        }
    }
}

fn metrics() -> String {
    let mut connection = TcpStream::connect(("127.0.0.1", METRICS)).unwrap();
    connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    connection.read_to_string(&mut text).unwrap();
    assert!(text.contains("rbd_csi") || text.contains("csi_"), "{text}");
    text
}

/// Whatever can be read on the node.
#[track_caller]
fn is_nowhere(key: &str, volume: &Volume, at: &str) {
    let mut seen = vec![
        ("/metrics".to_owned(), metrics()),
        ("the kernel's log".to_owned(), run("dmesg")),
        ("keys".to_owned(), text_of(Path::new("/proc/keys"))),
        ("mounts".to_owned(), text_of(Path::new("/proc/self/mountinfo"))),
    ];
    for folder in
        [volume.staging.parent().unwrap(), Path::new("/tmp"), Path::new("/run"), Path::new("/etc/ceph")]
    {
        files(folder, &mut seen);
    }
    for mapping in volume.mappings() {
        files(Path::new(&format!("/sys/bus/rbd/devices/{}", mapping.number)), &mut seen);
    }
    assert!(seen.iter().any(|(name, _)| name.ends_with("node.log")));
    for (name, text) in seen {
        assert!(!text.contains(key), "{at}: {name} holds the key");
    }
}

fn live_and_look(flags: &[&str]) {
    let key = variable(KEY);
    let maker = Plugin::maker();
    let metrics = format!("--metricsport={METRICS}");
    let mut plugin = Plugin::start("node", &[&["--nodeserver=true", &metrics], flags].concat());
    let driver = plugin.pid();
    let spy = Spy::start(move |seen| look_at_processes(driver, seen));
    for form in [Form::Ext4, Form::Xfs, Form::Block] {
        let volume = maker.create("a", form, form.mib());
        plugin.stage(&volume).unwrap();
        is_nowhere(&key, &volume, "staged");
        let target = volume.target("one");
        plugin.publish(&volume, &target).unwrap();
        write(&target, "written by a pod");
        plugin.total_bytes(&volume, &target).unwrap();
        is_nowhere(&key, &volume, "published");
        ask("look into the pool");
        plugin.unpublish(&volume, &target).unwrap();
        plugin.unstage(&volume).unwrap();
        is_nowhere(&key, &volume, "unstaged");

        // Errors tell of the request: here the key of another cluster.
        let mut wrong = volume.clone();
        wrong.secrets = super::process::secrets("b");
        let status = plugin.stage_within(&wrong, 20).unwrap_err();
        assert!(!status.message().contains(&variable("B_KEY")), "{status}");
        is_nowhere(&key, &volume, "refused");
        is_nowhere(&variable("B_KEY"), &volume, "refused");
        maker.delete(&volume);
    }
    let seen = spy.stop();
    // Those that live long enough to be seen for sure; others are seen by chance.
    assert!(seen.contains("rbd-csi internal helper "), "the helper was seen: {seen:?}");
    assert!(seen.contains("LC_ALL=C "), "its environment was seen: {seen:?}");
    let mapped = seen.iter().any(|argv| argv.contains("--keyfile"));
    assert_eq!(mapped, flags.contains(&"--map-with=rbd"), "rbd was seen: {seen:?}");
    for text in seen {
        assert!(!text.contains(&key), "a process shows the key: {text}");
    }
    plugin.restart();
}

#[test]
#[ignore = "runs inside a node"]
fn the_key_is_nowhere() {
    live_and_look(&[]);
}

#[test]
#[ignore = "runs inside a node"]
fn the_key_is_nowhere_with_the_program_rbd() {
    live_and_look(&["--map-with=rbd"]);
}
