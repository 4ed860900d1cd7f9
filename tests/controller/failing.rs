//! Each call fails instead of being made, with what Ceph answers on a bad day: the CO is
//! told the truth, a final code is given only when nothing is left, and a repeat ends well.

use std::cell::RefCell;

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

/// Runs `call` with each of its steps failing in each way; `then` repeats it.
fn sweep(
    bench: &Bench,
    driver: &Driver,
    steps: usize,
    call: impl Fn() -> Result<String, Status>,
    then: impl Fn(&Result<String, Status>, &str),
) {
    for (errno, word, code, places) in ERRNOS {
        for place in places {
            for step in 1..=steps {
                // The connection and the purges of the round before are no part of the count.
                bench.delete(driver, &bench.nothing()).unwrap();
                bench.site.arm(&format!("fail={errno}:{place}:{step}"));
                let first = call();
                let trace = bench.site.steps();
                bench.site.arm("");
                let name = trace.get(step - 1).cloned().unwrap_or_default();
                let at = format!("{word} {place} {step} ({name})");
                if let Err(status) = &first {
                    check(status, word, code, &at);
                }
                then(&first, &at);
                bench.wait_until_empty(&at);
            }
        }
    }
}

#[test]
fn create_with_each_call_failing_is_retried_to_the_end() {
    let bench = Bench::new();
    let driver = bench.start();
    let id = bench.create(&driver, NAME).unwrap();
    bench.delete(&driver, &id).unwrap();
    bench.site.arm("");
    let id = bench.create(&driver, NAME).unwrap();
    let steps = bench.site.steps().len();
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("after the trace");
    sweep(
        &bench,
        &driver,
        steps,
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
    bench.site.arm("");
    bench.delete(&driver, &id).unwrap();
    let steps = bench.site.steps();
    let answered = steps.iter().position(|step| step.starts_with("rbd_trash_remove")).unwrap_or(steps.len());
    bench.wait_until_empty("after the trace");
    let current = RefCell::new(String::new());
    sweep(
        &bench,
        &driver,
        answered,
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
    for (step, errno) in [("rbd_trash_remove", libc::ETIMEDOUT), ("journal forget purge", libc::EPERM)] {
        let id = bench.create(&driver, NAME).unwrap();
        bench.site.arm(&format!("fail={errno}:before:{step}"));
        bench.delete(&driver, &id).unwrap();
        bench.wait_until_empty(step);
        let tries = bench.site.steps().iter().filter(|seen| seen.starts_with(step)).count();
        assert_eq!(tries, 2, "{step}: {:?}", bench.site.steps());
        bench.site.arm("");
    }
    assert!(bench.site.log().contains("stays in the trash for now"));
}
