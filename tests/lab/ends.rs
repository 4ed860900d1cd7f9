//! How labs end: beside each other, in the middle of their start, and before it.

use std::io::Read as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::checkout::{Checkout, Traces};

const ONE_OF_EACH: [&str; 5] = ["up", "--clusters", "1", "--nodes", "1"];

#[test]
fn labs_of_one_name_in_two_checkouts_do_not_disturb_each_other() {
    let here = Checkout::here("twin");
    let there = here.copy();
    let starts = [&here, &there].map(|checkout| checkout.begin(&ONE_OF_EACH));
    for start in starts {
        let output = start.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let (ours, theirs) = (here.traces().unwrap(), there.traces().unwrap());
    here.succeed(&["exec", "--", "rbd", "create", "--size", "1M", "ours"]);
    assert_eq!(there.succeed(&["exec", "--", "rbd", "ls"]), "");
    there.succeed(&["exec", "--", "rbd", "create", "--size", "1M", "theirs"]);
    // The nodes have the same addresses and number, and each reaches its own cluster.
    assert_eq!(here.succeed(&["node-exec", "1", "--", "rbd", "ls"]), "ours");
    assert_eq!(there.succeed(&["node-exec", "1", "--", "rbd", "ls"]), "theirs");

    here.succeed(&["down"]);
    ours.are_gone("one of two");
    let status = there.succeed(&["status"]);
    assert!(!status.contains("DOWN"), "{status}");
    assert_eq!(there.succeed(&["node-exec", "1", "--", "rbd", "ls"]), "theirs");
    // Nor does the other's name mean this one.
    assert!(!here.run(&["status"]).status.success());
    // All of the other checkout is that one lab.
    there.succeed(&["down", "--all"]);
    theirs.are_gone("two of two");
}

/// Begins a start and waits until it has come so far; what there is of it then.
fn half_way(checkout: &Checkout, there: impl Fn(&Traces) -> bool) -> (std::process::Child, Traces) {
    let mut start =
        checkout.begin(&[&ONE_OF_EACH[..], &["--owner", &std::process::id().to_string()]].concat());
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(traces) = checkout.traces()
            && there(&traces)
        {
            return (start, traces);
        }
        assert!(start.try_wait().unwrap().is_none(), "it ended before it was interrupted");
        assert!(Instant::now() < until, "the start does not come so far");
        std::thread::sleep(Duration::from_millis(5));
    }
}

type Moment = (&'static str, fn(&Traces) -> bool);

/// Moments of a start: the network alone, a node that boots and a cluster in the making.
const MOMENTS: [Moment; 3] = [
    ("with a namespace", |_| true),
    ("with a booting node", |traces| traces.dir().join("nodes/1/pid").exists()),
    ("with a monitor", |traces| traces.run_dir().join("a/mon.a.pid").exists()),
];

#[test]
fn an_interrupted_start_leaves_nothing() {
    let checkout = Checkout::here("interrupted");
    for (at, there) in MOMENTS {
        let (mut start, traces) = half_way(&checkout, there);
        // As a terminal's Ctrl-C: to the whole foreground group.
        killpg(Pid::from_raw(i32::try_from(start.id()).unwrap()), Signal::SIGINT).unwrap();
        let mut said = String::new();
        start.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = start.wait().unwrap();
        assert!(!status.success(), "{at}: an interrupted start is none: {said}");
        assert!(said.contains("interrupted"), "{at}: {said}");
        traces.are_gone(at);
    }
}

#[test]
fn a_killed_start_is_cleared_away_by_down() {
    let checkout = Checkout::here("killed");
    for (at, there) in MOMENTS {
        let (mut start, traces) = half_way(&checkout, there);
        kill(Pid::from_raw(i32::try_from(start.id()).unwrap()), Signal::SIGKILL).unwrap();
        start.wait().unwrap();
        checkout.succeed(&["down"]);
        traces.are_gone(at);
    }
}

#[test]
fn this_machines_own_kernel_is_a_node_only_when_it_has_rbd() {
    let checkout = Checkout::here("host").with("LAB_KERNEL", "host");
    let has_rbd = Path::new("/sys/bus/rbd").exists()
        || Command::new("modprobe").arg("rbd").output().is_ok_and(|output| output.status.success());
    let up = checkout.run(&["up", "--clusters", "1", "--nodes", "1"]);
    let said = String::from_utf8_lossy(&up.stderr);
    if has_rbd {
        assert!(up.status.success(), "{said}");
        let traces = checkout.traces().unwrap();
        checkout.succeed(&["exec", "--", "rbd", "create", "--size", "1M", "image"]);
        let device = checkout.succeed(&["node-exec", "1", "--", "rbd", "map", "-o", "noudev", "rbd/image"]);
        checkout.succeed(&["node-exec", "1", "--", "rbd", "unmap", "-o", "noudev", &device]);
        checkout.succeed(&["down"]);
        traces.are_gone("on this kernel");
        return;
    }
    assert_eq!(up.status.code(), Some(1), "{said}");
    for word in ["LAB_KERNEL=host", "rbd", "CONFIG_BLK_DEV_RBD"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(!said.contains("starting Ceph"), "it is said before anything is started: {said}");
    assert!(!checkout.folder.join(".lab").join(&checkout.name).exists());
    assert!(!checkout.run(&["status"]).status.success(), "nothing is left");
}
