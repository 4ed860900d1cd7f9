//! Each call fails instead of being made, with what Ceph answers on a bad day: the CO is
//! told the truth, a final code is given only when nothing is left, and a repeat ends well.

use std::cell::RefCell;
use std::time::Duration;

use tonic::{Code, Status};

use crate::support::bench::Bench;
use crate::support::driver::Driver;

const NAME: &str = "pvc-failing";

/// What fails, as the message says it; the code of a call that ends in it for good; and
/// where it can fail: only a time-out or a blocklist leaves open whether a call was done.
const ERRNOS: [(i32, &str, Code, &[&str]); 4] = [
    (libc::ETIMEDOUT, "ETIMEDOUT", Code::DeadlineExceeded, &["before", "after"]),
    (libc::ESHUTDOWN, "blocklisted", Code::Unavailable, &["before", "after"]),
    (libc::ENOSPC, "ENOSPC", Code::ResourceExhausted, &["before"]),
    (libc::EPERM, "EPERM", Code::PermissionDenied, &["before"]),
];

fn is_final(status: &Status) -> bool {
    !matches!(status.code(), Code::Cancelled | Code::Aborted | Code::Unavailable | Code::DeadlineExceeded)
}

/// What a status after `errno` must be: the errno by name and its own code, or "try again".
fn check(status: &Status, word: &str, code: Code, at: &str) {
    assert!(status.details().is_empty(), "{at}: {status}");
    assert!([code, Code::Unavailable].contains(&status.code()), "{at}: {status}");
    assert!(status.message().contains(word), "{at}: {status}");
}

/// The purge's steps, by name and the how-manieth of it: they come beside or after the
/// answer, which knows nothing of them. The deletion itself looks at watchers and trash once.
const PURGE: [(&str, usize, i32); 8] = [
    ("journal read purge", 1, libc::EPERM),
    ("trash get", 2, libc::EPERM),
    ("image header", 3, libc::EPERM),
    ("list_watchers", 2, libc::ETIMEDOUT),
    ("rados_list_lockers", 1, libc::EPERM),
    ("journal own purge", 1, libc::EPERM),
    ("rbd_trash_remove_with_progress", 1, libc::ETIMEDOUT),
    ("journal forget purge", 1, libc::EPERM),
];

fn name(step: &str) -> &str {
    step.split('\t').next().unwrap()
}

/// Each step as its name and the how-manieth of it: a fault finds it also where steps that
/// run side by side change places.
fn named(steps: &[String]) -> Vec<(String, usize)> {
    let nth =
        |index: usize| steps[..=index].iter().filter(|other| name(other) == name(&steps[index])).count();
    (0..steps.len()).map(|index| (name(&steps[index]).to_owned(), nth(index))).collect()
}

/// Runs `call` with each of its steps failing in each way; `then` repeats it. A call that is
/// not made always ends it in an error. After one that was made and answered with an errno of
/// its own (nothing is there, as it should be), no fault strikes.
fn sweep(
    bench: &Bench,
    driver: &Driver,
    steps: &[(String, usize)],
    call: impl Fn() -> Result<String, Status>,
    then: impl Fn(&Result<String, Status>, &str),
) {
    for (errno, word, code, places) in ERRNOS {
        for place in places {
            let mut passed = Vec::new();
            for (step, nth) in steps {
                // The connection and the purges of the round before are no part of the count.
                bench.delete(driver, &bench.nothing()).unwrap();
                bench.site.arm(&format!("fail={errno}:{place}:{step}#{nth}"));
                let first = call();
                let trace = bench.site.steps();
                bench.site.arm("");
                let at = format!("{word} {place} {step}#{nth}");
                let reached = trace.iter().filter(|seen| name(seen) == step).count() >= *nth;
                assert!(reached, "{at}: nothing failed, there was no such step: {trace:?}");
                if let Err(status) = &first {
                    check(status, word, code, &at);
                } else {
                    passed.push(format!("{step}#{nth}"));
                }
                bench.check_that_ceph_csi_could_go_on(&at);
                then(&first, &at);
                bench.wait_until_empty(&at);
            }
            let least = if *place == "before" { steps.len() } else { steps.len() * 2 / 3 };
            let failed = steps.len() - passed.len();
            assert!(
                failed >= least,
                "{word} {place}: only {failed} of {} ended in an error, not {passed:?}",
                steps.len()
            );
        }
    }
}

#[test]
fn create_with_each_call_failing_is_retried_to_the_end() {
    let bench = Bench::new();
    let driver = bench.start();
    let id = bench.create(&driver, NAME).unwrap();
    bench.delete(&driver, &id).unwrap();
    // Its purge is no part of the trace.
    bench.wait_until_empty("before the trace");
    std::thread::sleep(Duration::from_millis(200));
    bench.site.arm("");
    let id = bench.create(&driver, NAME).unwrap();
    let steps = named(&bench.site.steps());
    assert!(steps.len() >= 8, "{steps:?}");
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("after the trace");
    sweep(
        &bench,
        &driver,
        &steps,
        || bench.create(&driver, NAME),
        |first, at| {
            if first.as_ref().is_err_and(is_final) {
                // The provisioner may forget the volume.
                assert_eq!(bench.contents(), Vec::<String>::new(), "{at}: {first:?}");
            }
            let id =
                bench.create(&driver, NAME).unwrap_or_else(|error| panic!("{at}: {first:?}, then {error}"));
            assert!(first.as_ref().ok().is_none_or(|given| *given == id), "{at}: {first:?}, then {id}");
            assert_eq!(bench.images().len(), 1, "{at}");
            bench.delete(&driver, &id).unwrap_or_else(|error| panic!("{at}: delete: {error}"));
        },
    );
}

#[test]
fn delete_with_each_call_failing_is_retried_to_the_end() {
    let bench = Bench::new();
    let driver = bench.start();
    let id = bench.create(&driver, NAME).unwrap();
    // What its first call looks for in the background is no part of the trace.
    std::thread::sleep(Duration::from_secs(1));
    bench.site.arm("");
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("after the trace");
    let mut steps = named(&bench.site.steps());
    // The purge's own look at the map.
    steps.retain(|(step, nth)| (step.as_str(), *nth) != ("rados_pool_reverse_lookup", 2));
    steps.retain(|(step, nth)| !PURGE.iter().any(|(name, times, _)| name == step && times == nth));
    assert!(steps.len() >= 14, "{steps:?}");
    let current = RefCell::new(String::new());
    sweep(
        &bench,
        &driver,
        &steps,
        || {
            // Its calls come first; the fault must strike in the deletion.
            let plan = std::fs::read_to_string(bench.site.path("faults")).unwrap();
            bench.site.arm("");
            let id = bench.create(&driver, NAME).unwrap();
            bench.site.arm(&plan);
            current.replace(id.clone());
            bench.delete(&driver, &id).map(|()| id)
        },
        |first, at| {
            let id = current.borrow().clone();
            bench.delete(&driver, &id).unwrap_or_else(|error| panic!("{at}: {first:?}, then {error}"));
        },
    );
}

#[test]
fn a_purge_that_fails_is_tried_again_by_itself() {
    let bench = Bench::new();
    let driver = bench.start();
    for (step, times, errno) in PURGE {
        let id = bench.create(&driver, NAME).unwrap();
        bench.site.arm(&format!("fail={errno}:before:{step}#{times}"));
        bench.delete(&driver, &id).unwrap();
        bench.wait_until_empty(step);
        let tries = bench.site.steps().iter().filter(|seen| seen.starts_with(step)).count();
        assert_eq!(tries, times + 1, "{step}: {:?}", bench.site.steps());
        bench.site.arm("");
    }
    assert!(bench.site.log().contains("stays in the trash for now"));
}
