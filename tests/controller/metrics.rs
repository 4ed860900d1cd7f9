//! What an operator sees of Ceph through `/metrics`: calls by name and errno, and the
//! images that wait for their purge.

use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use tonic::Code;

use crate::support::bench::{Bench, SOON, last_lines};
use crate::support::lab::{Running, Stopped};
use crate::support::page;

const NAME: &str = "pvc-metrics";

/// A bench whose drivers show their metrics.
struct Watched {
    bench: Bench,
    port: u16,
}

impl Watched {
    fn new() -> Self {
        let mut bench = Bench::new();
        let port = page::free_port();
        bench.site.flag(format!("--metricsport={port}"));
        Self { bench, port }
    }

    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let (status, text) = page::get(("127.0.0.1", self.port), "/metrics");
        assert_eq!(status, 200);
        page::value(&text, &format!("rbd_csi_{name}"), labels)
    }

    fn backlog(&self) -> f64 {
        let of = |state| self.metric("purge_backlog", &[("state", state)]);
        let all = ["queued", "waiting_for_clones", "blocked"].map(of);
        all.iter().map(|count| count.expect("the backlog is always shown")).sum()
    }

    fn wait_until(&self, what: &str, within: Duration, is_so: impl Fn() -> bool) {
        let until = Instant::now() + within;
        while !is_so() {
            assert!(Instant::now() < until, "{what}: not yet\n{}", last_lines(&self.bench.site.log(), 15));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn calls_to_ceph_are_counted_by_name_and_errno() {
    let mut watched = Watched::new();
    watched.bench.site.flag("--v=5");
    let (watched, bench) = (&watched, &watched.bench);
    let driver = bench.start();
    let failures = |call: &str, errno: i32| {
        let labels = [("call", call), ("errno", &errno.to_string())];
        watched.metric("ceph_call_failures_total", &labels).unwrap_or(0.0)
    };
    let calls = |call: &str| watched.metric("ceph_call_seconds_count", &[("call", call)]).unwrap_or(0.0);

    // The pool is not there, says the cluster.
    assert_eq!((calls("rados_pool_lookup"), failures("rados_pool_lookup", libc::ENOENT)), (0.0, 0.0));
    let answer = bench.send(&driver, bench.request(NAME, &[("pool", "no-such-pool")]));
    assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
    let (all, failed) = (calls("rados_pool_lookup"), failures("rados_pool_lookup", libc::ENOENT));
    assert!(failed >= 1.0 && all >= failed, "{failed} of {all}");
    assert_eq!((calls("rados_connect"), failures("rados_connect", libc::EACCES)), (1.0, 0.0));

    // A wrong key: another call, another errno, and the first ones stay as they are.
    let mut stranger = bench.request(NAME, &[]);
    stranger.secrets.insert("userKey".into(), "AQDqZ2BlAAAAABAAAAAAAAAAAAAAAAAAAAAAAA==".into());
    assert_eq!(bench.send(&driver, stranger).unwrap_err().code(), Code::Unauthenticated);
    assert_eq!((calls("rados_connect"), failures("rados_connect", libc::EACCES)), (2.0, 1.0));
    assert_eq!(failures("rados_pool_lookup", libc::ENOENT), failed);

    // What succeeds counts as a call and as no failure.
    let id = bench.create(&driver, NAME).unwrap();
    assert_eq!(calls("rbd_create4"), 1.0);
    let seconds = watched.metric("ceph_call_seconds_sum", &[("call", "rbd_create4")]).unwrap();
    assert!(seconds > 0.0 && seconds < 60.0, "{seconds}");
    let (_, text) = page::get(("127.0.0.1", watched.port), "/metrics");
    let failed = |line: &&str| line.contains("ceph_call_failures") && line.contains("rbd_create4");
    assert_eq!(text.lines().find(failed), None);
    assert!(!text.contains(&bench.cluster().admin_key), "a metric holds the key");
    // And each is traced, with its object and errno.
    let log = bench.site.log();
    let traced = |words: &[&str]| {
        log.lines().any(|line| line.contains("ceph call") && words.iter().all(|word| line.contains(word)))
    };
    assert!(traced(&["rbd_create4", &id[id.len() - 36..], "micros="]), "{}", last_lines(&log, 40));
    assert!(traced(&["rados_pool_lookup", "no-such-pool", "errno=2"]), "{}", last_lines(&log, 40));
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("at the end");
}

/// Somebody who watches an image's header, as a client does that has it open.
fn watcher(bench: &Bench, header: &str) -> Running {
    let mut command = bench.cluster().command("rados");
    command.args(["-p", "rbd", "watch", header]).stdin(Stdio::piped()).stdout(Stdio::null());
    let watcher = Running(command.spawn().unwrap());
    let until = Instant::now() + Duration::from_secs(10);
    while bench.wait(bench.rados.watchers(header)).unwrap().is_empty() {
        assert!(Instant::now() < until, "nobody watches {header}");
        std::thread::sleep(Duration::from_millis(10));
    }
    watcher
}

#[test]
fn a_deleted_image_that_cannot_be_purged_yet_is_kept_counted_and_purged_later() {
    let watched = Watched::new();
    let bench = &watched.bench;
    let driver = bench.start();
    let id = bench.create(&driver, NAME).unwrap();
    let name = format!("csi-vol-{}", &id[id.len() - 36..]);
    let image = bench.wait(bench.rados.image_id(&name)).unwrap().unwrap();
    assert_eq!(watched.backlog(), 0.0);

    // Opened between the answer and the purge: the driver stands still meanwhile.
    bench.site.arm("delay=2500:before:journal read purge");
    bench.delete(&driver, &id).unwrap();
    let stopped = Stopped::new(Pid::from_raw(i32::try_from(driver.pid()).unwrap()));
    let mut opened = watcher(bench, &image.header_object());
    drop(stopped);
    let kept = "a deleted image stays in the trash for now";
    let refusals = || bench.site.log().lines().filter(|line| line.contains(kept)).count();
    watched.wait_until("the purge is refused", SOON, || refusals() == 1);
    let client = bench.wait(bench.rados.watchers(&image.header_object())).unwrap()[0].client;
    assert!(bench.site.log().contains(&format!("still watched by client.{client} at")), "it is named");
    assert_eq!(watched.backlog(), 1.0);
    assert!(bench.keys("rbd_trash").contains_key(&format!("id_{}", image.as_str())), "it is in the trash");

    // Tried again, and kept again.
    watched.wait_until("another try", SOON, || refusals() == 2);
    assert_eq!(watched.backlog(), 1.0);

    // Its client closes it: end of input ends `rados watch` in good order.
    drop(opened.0.stdin.take());
    opened.0.wait().unwrap();
    watched.wait_until("the purge", SOON, || watched.backlog() == 0.0);
    assert_eq!(bench.contents(), Vec::<String>::new());
}

#[test]
fn what_another_driver_could_not_purge_is_counted_and_purged_by_the_next() {
    let watched = Watched::new();
    let bench = &watched.bench;
    let mut driver = bench.start();
    let id = bench.create(&driver, NAME).unwrap();
    bench.site.arm("kill:before:rbd_trash_remove_with_progress");
    // The answer may be lost with the process.
    let _ = bench.delete(&driver, &id);
    assert!(driver.was_killed(SOON));
    assert!(!bench.contents().is_empty());

    bench.site.arm("fail=16:before:rbd_trash_remove_with_progress");
    let driver = bench.start();
    assert_eq!(watched.backlog(), 0.0, "it has no credentials yet");
    // The first call for that pool, whatever it is for, brings them.
    bench.delete(&driver, &bench.nothing()).unwrap();
    watched.wait_until("the refused purge", SOON, || {
        bench.site.log().contains("stays in the trash for now") && watched.backlog() == 1.0
    });
    watched.wait_until("the purge", SOON, || watched.backlog() == 0.0);
    assert_eq!(bench.contents(), Vec::<String>::new());
}
