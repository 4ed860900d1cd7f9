//! The controller killed before and after any single call: nothing is lost, nothing is
//! left over, and a repeat gives the same volume. A run draws a sample of the calls, `make soak`
//! takes all.
//!
//! What a reader gets wrong: each kill has a driver of its own, and its call is named (the
//! K-th of that name), since calls that run side by side change places. The kills inside librbd's calls are in `inside`.

use std::time::Duration;

use crate::support::bench::Bench;
use crate::support::driver::Driver;
use crate::support::random::{self, Random};

const NAME: &str = "pvc-crash";
pub const KILLED: Duration = Duration::from_secs(15);

/// The calls of one CreateVolume by a driver that just started.
fn steps_of_create(bench: &Bench) -> Vec<String> {
    let driver = bench.start();
    bench.site.arm("");
    let id = bench.create(&driver, NAME).unwrap();
    let steps = bench.site.steps();
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("after the trace");
    assert!(steps.len() > 8, "the trace of a create: {steps:?}");
    steps
}

/// Asked by several at once and as often as it happens, and changes nothing: the map that the
/// client has, and whether an image that was listed is still recorded.
const LOOK_UPS: [&str; 2] = ["rados_pool_reverse_lookup", "journal read purge"];

/// Which of the points of a sweep are tried.
pub enum Points {
    /// Every one.
    All,
    /// So many of them, drawn with this seed.
    Some(usize, u64),
}

impl Points {
    /// A sample, drawn anew in each run unless `SWEEP_SEED` says which; all with `SWEEP=full`.
    pub fn sample() -> Self {
        Self::sample_of(SAMPLE)
    }

    /// A larger one, for what everything else stands on.
    fn many() -> Self {
        Self::sample_of(MANY)
    }

    fn sample_of(count: usize) -> Self {
        if random::full() { Self::All } else { Self::Some(count, random::seed("a sample of the sweep")) }
    }

    fn of(&self, points: usize) -> Vec<usize> {
        let Self::Some(count, seed) = self else { return (0..points).collect() };
        let mut drawn = Random::new(*seed).shuffled((0..points).collect());
        drawn.truncate(*count);
        drawn.sort_unstable();
        drawn
    }
}

/// How many kills a sample has.
const SAMPLE: usize = 6;
const MANY: usize = 12;

/// Prepares, runs `attempt` with a kill before or after a call, and then `then` with a new
/// driver, for the points of the trace that are asked for.
pub fn sweep_at<T>(
    points: Points,
    trace: fn(&Bench) -> Vec<String>,
    prepare: fn(&Bench) -> T,
    attempt: fn(&Bench, &Driver, &T),
    then: fn(&Bench, &Driver, T, &str),
) {
    let bench = Bench::new();
    let mut steps = trace(&bench);
    // What a driver that has just started looks at in the background is no step of the call.
    steps.retain(|step| !step.starts_with("journal list"));
    let then = |bench: &Bench, driver: &Driver, prepared: T, (), at: &str| then(bench, driver, prepared, at);
    kill(&bench, points, steps, prepare, attempt, then);
}

/// Runs `attempt` with a kill before or after a step that `trace` gives, and `then` what is to be
/// true after it, with a new driver; for a sample of the steps.
pub fn sweep(
    points: Points,
    trace: fn(&Bench) -> Vec<String>,
    attempt: fn(&Bench, &Driver) -> Option<String>,
    then: fn(&Bench, &Driver, Option<String>, &str),
) {
    let bench = Bench::new();
    let steps = trace(&bench);
    let attempt = |bench: &Bench, driver: &Driver, (): &()| attempt(bench, driver);
    let then = |bench: &Bench, driver: &Driver, (), answered: Option<String>, at: &str| {
        then(bench, driver, answered, at)
    };
    kill(&bench, points, steps, |_| (), attempt, then);
}

/// One driver killed at each of the points; `then` gets what was prepared and what `attempt` gave.
fn kill<T, A>(
    bench: &Bench,
    points: Points,
    mut steps: Vec<String>,
    prepare: impl Fn(&Bench) -> T,
    attempt: impl Fn(&Bench, &Driver, &T) -> A,
    then: impl Fn(&Bench, &Driver, T, A, &str),
) {
    steps.retain(|step| !LOOK_UPS.iter().any(|name| step.starts_with(name)));
    let points = points.of(steps.len() * 2);
    let mut missed = 0;
    for point in &points {
        let (step, place) = (&steps[point / 2], ["before", "after"][point % 2]);
        let name = |step: &str| step.split('\t').next().unwrap().to_owned();
        let nth = steps[..=point / 2].iter().filter(|other| name(other) == name(step)).count();
        let named = format!("{}#{nth}", name(step));
        let at = format!("killed {place} {named} ({step})");
        bench.site.arm("");
        let prepared = prepare(bench);
        let mut driver = bench.start();
        bench.site.arm(&format!("kill:{place}:{named}"));
        let answered = attempt(bench, &driver, &prepared);
        if !driver.was_killed(KILLED) {
            // Purges that run beside the call look as often as they meet each other.
            let came = bench.site.steps().iter().filter(|other| name(other) == name(step)).count();
            assert!(came < nth, "{at}: it was not killed");
            missed += 1;
            assert!(missed * 4 <= points.len(), "{at}: {missed} of {} kills came too late", points.len());
        }
        drop(driver);
        bench.check_that_ceph_csi_could_go_on(&at);
        bench.site.arm("");
        let driver = bench.start();
        then(bench, &driver, prepared, answered, &at);
        bench.wait_until_empty(&at);
    }
}

/// DeleteVolume of a volume made for it; its handle when that was not answered.
fn delete_a_new_one(bench: &Bench, driver: &Driver) -> Option<String> {
    let id = bench.create(&bench.start_beside(), NAME).unwrap();
    let answered = bench.delete(driver, &id).is_ok();
    (!answered).then_some(id)
}

/// What must succeed by a driver that comes after a kill.
#[track_caller]
pub fn goes_on<T>(answer: Result<T, tonic::Status>, what: &str, at: &str) -> T {
    answer.unwrap_or_else(|status| panic!("{at}: {what}: {status}"))
}

#[test]
fn create_killed_at_every_call_and_retried_gives_the_same_volume() {
    sweep(
        Points::many(),
        steps_of_create,
        |bench, driver| {
            let _ = bench.create(driver, NAME);
            bench.reserved(NAME)
        },
        |bench, driver, reserved, at| {
            let id = goes_on(bench.create(driver, NAME), "create", at);
            assert!(reserved.is_none_or(|uuid| id.ends_with(&uuid)), "{at}: {id} is another volume");
            assert_eq!(bench.create(driver, NAME).unwrap(), id, "{at}: repeated");
            assert_eq!(bench.images().len(), 1, "{at}");
            goes_on(bench.delete(driver, &id), "delete", at);
        },
    );
}

#[test]
fn create_killed_at_every_call_and_given_up_leaves_nothing() {
    sweep(
        Points::many(),
        steps_of_create,
        |bench, driver| {
            let _ = bench.create(driver, NAME);
            // Entered: the handle may be known to others. Merely intended: it was told to nobody,
            // and the repeat of the create that the CO owes finds it.
            bench.reserved(NAME).filter(|uuid| !bench.keys(&format!("csi.volume.{uuid}")).is_empty())
        },
        |bench, driver, entered, at| {
            let id = match entered {
                Some(uuid) => bench.handle(&uuid),
                None => goes_on(bench.create(driver, NAME), "create", at),
            };
            goes_on(bench.delete(driver, &id), "delete", at);
            goes_on(bench.delete(driver, &id), "delete again", at);
        },
    );
}

/// The purge's calls come after the answer and are part of it.
fn steps_of_delete(bench: &Bench) -> Vec<String> {
    let id = bench.create(&bench.start(), NAME).unwrap();
    let driver = bench.start();
    bench.site.arm("");
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("after the trace");
    std::thread::sleep(Duration::from_millis(200));
    let steps = bench.site.steps();
    assert!(steps.iter().any(|step| step.starts_with("journal forget purge")), "{steps:?}");
    steps
}

#[test]
fn delete_killed_at_every_call_and_retried_leaves_nothing() {
    sweep(Points::many(), steps_of_delete, delete_a_new_one, |bench, driver, unfinished, at| {
        // When the CO is done, the next call for this pool, whatever it is, resumes the purge.
        let id = unfinished.unwrap_or_else(|| bench.nothing());
        goes_on(bench.delete(driver, &id), "delete", at);
    });
}

#[test]
fn a_name_whose_deletion_was_killed_at_any_call_is_created_whole() {
    sweep(Points::many(), steps_of_delete, delete_a_new_one, |bench, driver, unfinished, at| {
        let before = bench.images();
        let id = match bench.create(driver, NAME) {
            // Recorded, and not moved yet: the image is whole, and the CO owes its deletion.
            Err(status) if status.code() == tonic::Code::Aborted => {
                let old = unfinished.as_ref().unwrap_or_else(|| panic!("{at}: {status}"));
                assert!(status.message().contains("is being deleted"), "{at}: {status}");
                assert_eq!(bench.images(), before, "{at}");
                goes_on(bench.delete(driver, old), "delete", at);
                goes_on(bench.create(driver, NAME), "create", at)
            }
            answer => goes_on(answer, "create", at),
        };
        // What was to be purged is purged, and it is not what was just answered.
        std::thread::sleep(Duration::from_millis(300));
        let image = format!("csi-vol-{}", &id[id.len() - 36..]);
        assert_eq!(bench.images(), std::slice::from_ref(&image), "{at}");
        bench.cluster().rbd(&["info", &image]);
        // The CO still owes the deletion that was not answered; it does not touch the new volume.
        if let Some(old) = unfinished.filter(|old| *old != id) {
            goes_on(bench.delete(driver, &old), "delete the old one", at);
            assert_eq!(bench.create(driver, NAME).unwrap(), id, "{at}");
        }
        goes_on(bench.delete(driver, &id), "delete", at);
    });
}

/// Two nodes of one name, of two Kubernetes on one Ceph, are two.
#[test]
fn a_creator_s_lock_names_this_boot_of_the_node() {
    let bench = Bench::new();
    let mut driver = bench.start();
    bench.site.arm("kill:before:rbd_create4");
    bench.create(&driver, NAME).unwrap_err();
    assert!(driver.was_killed(KILLED));
    bench.site.arm("");
    let object = format!("csi.volume.{}", bench.reserved(NAME).unwrap());
    let holder = bench.wait(bench.rados.lock_holder(&object, "rbd-csi.create")).unwrap().unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert!(holder.cookie.contains(boot.trim()), "{}", holder.cookie);
    let driver = bench.start();
    let id = bench.create(&driver, NAME).unwrap();
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("at the end");
}
