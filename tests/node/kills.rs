//! A SIGKILL at every step, and the driver that comes after it.
//!
//! What a reader gets wrong: each process of a sweep first finishes the case of the one
//! before it, which was killed, and then starts the next case by arming the next step.
//! The steps are those that a first, undisturbed run has traced. It is killed after each:
//! nothing durable happens between one step's end and the next one's beginning.

use std::path::{Path, PathBuf};

use rbd_csi::volume::Kind;
use rbd_csi::volume::capability::{AccessMode, Capability};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::driver::{Driver, Volume, block, file_system, run};
use super::support::inside::variable;

/// How far a sweep is.
#[derive(Serialize, Deserialize)]
struct State {
    steps: usize,
    case: usize,
    volume: String,
}

struct Sweep {
    driver: Driver,
    file: PathBuf,
    plan: PathBuf,
    mib: u64,
    capability: Capability,
}

impl Sweep {
    fn new(mib: u64, capability: Capability) -> Self {
        let file = PathBuf::from(variable("SWEEP"));
        let plan = file.with_extension("plan");
        std::fs::write(&plan, "").unwrap();
        Self { driver: Driver::start(), file, plan, mib, capability }
    }

    fn create(&self) -> (Uuid, Volume) {
        let uuid = Uuid::new_v4();
        (uuid, self.driver.create_as(uuid, self.mib))
    }

    /// How many steps the call takes when nothing happens, and which they are.
    fn count(&self, call: impl FnOnce()) -> String {
        let trace = self.trace();
        let _ = std::fs::remove_file(&trace);
        std::fs::write(&self.plan, "delay=0:before:count").unwrap();
        call();
        std::fs::write(&self.plan, "").unwrap();
        let text = std::fs::read_to_string(trace).unwrap();
        println!("the steps:\n{text}");
        text
    }

    fn trace(&self) -> PathBuf {
        let mut path = self.plan.as_os_str().to_owned();
        path.push(".trace");
        path.into()
    }

    /// Runs one case: `prepare` a volume, kill the process in `call`, and in the process
    /// after it `check` that everything can go on.
    fn run(&self, prepare: impl Fn(&Volume), call: impl Fn(&Volume), check: impl Fn(&Volume)) {
        self.run_with(prepare, call, check, |_| {});
    }

    /// The same, with a look at the steps' names.
    fn run_with(
        &self,
        prepare: impl Fn(&Volume),
        call: impl Fn(&Volume),
        check: impl Fn(&Volume),
        look: impl Fn(&str),
    ) {
        let state = match std::fs::read(&self.file) {
            Ok(text) => {
                let state: State = serde_json::from_slice(&text).unwrap();
                check(&self.driver.volume(state.volume.parse().unwrap()));
                State { case: state.case + 1, ..state }
            }
            Err(_) => {
                let (uuid, volume) = self.create();
                prepare(&volume);
                let text = self.count(|| call(&volume));
                look(&text);
                let steps = text.lines().count();
                check(&volume);
                assert!(steps > 1, "{steps} steps");
                State { steps, case: 0, volume: uuid.to_string() }
            }
        };
        if state.case == state.steps {
            println!("{} kills", state.case);
            return;
        }
        let (uuid, volume) = self.create();
        prepare(&volume);
        let step = state.case + 1;
        std::fs::write(&self.file, serde_json::to_vec(&State { volume: uuid.to_string(), ..state }).unwrap())
            .unwrap();
        std::fs::write(&self.plan, format!("kill:after:{step}")).unwrap();
        call(&volume);
        // The call took fewer steps this time, so nothing struck: on to the next case.
        std::fs::write(&self.plan, "").unwrap();
        check(&volume);
        println!("step {step} was not reached");
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
    }
}

/// It can be staged, used and taken down, and nothing is left.
fn stages_and_ends(sweep: &Sweep, volume: &Volume) {
    let driver = &sweep.driver;
    assert!(volume.mappings().len() <= 1, "mapped twice");
    driver.stage(volume, &sweep.capability).unwrap();
    assert_eq!(volume.mappings().len(), 1);
    let target = volume.target("one");
    driver.publish(volume, &target, &sweep.capability, false).unwrap();
    use_it(&target);
    driver.unpublish(volume, &target).unwrap();
    driver.unstage(volume).unwrap();
    volume.is_gone();
    let _ = std::fs::remove_dir_all(volume.staging.parent().unwrap());
}

fn use_it(target: &Path) {
    let place = target.display();
    if target.is_dir() {
        run(&format!("echo written >{place}/file; test \"$(cat {place}/file)\" = written"));
    } else {
        run(&format!(
            "printf written | dd of={place} conv=notrunc,fsync status=none; test \"$(head -c 7 {place})\" = written"
        ));
    }
}

fn stage(mib: u64, capability: Capability) {
    let sweep = Sweep::new(mib, capability);
    let call = |volume: &Volume| sweep.driver.stage(volume, &sweep.capability).unwrap();
    sweep.run(|_| {}, call, |volume| stages_and_ends(&sweep, volume));
}

#[test]
#[ignore = "runs inside a node, again and again"]
fn stage_ext4() {
    stage(32, file_system("ext4"));
}

#[test]
#[ignore = "runs inside a node, again and again"]
fn stage_xfs() {
    stage(320, file_system("xfs"));
}

#[test]
#[ignore = "runs inside a node, again and again"]
fn stage_block() {
    stage(8, block(AccessMode::SingleNodeWriter));
}

/// Killed in NodeUnstage; every second volume is staged again instead of unstaged.
#[test]
#[ignore = "runs inside a node, again and again"]
fn unstage() {
    let sweep = Sweep::new(32, file_system("ext4"));
    let prepare = |volume: &Volume| sweep.driver.stage(volume, &sweep.capability).unwrap();
    let call = |volume: &Volume| sweep.driver.unstage(volume).unwrap();
    let check = |volume: &Volume| {
        if volume.id.as_bytes().last().is_some_and(|last| last % 2 == 0) {
            sweep.driver.unstage(volume).unwrap();
            volume.is_gone();
        }
        stages_and_ends(&sweep, volume);
    };
    let look = |steps: &str| {
        let alone = steps.lines().all(|line| line.split(' ').nth(1) == Some("host:"));
        assert!(alone, "no cluster is asked: {steps}");
    };
    sweep.run_with(prepare, call, check, look);
}

/// Killed in NodePublish (read-only) and NodeUnpublish.
#[test]
#[ignore = "runs inside a node, again and again"]
fn publish() {
    let sweep = Sweep::new(32, file_system("ext4"));
    let driver = &sweep.driver;
    let target = |volume: &Volume| volume.target("reader");
    let prepare = |volume: &Volume| driver.stage(volume, &sweep.capability).unwrap();
    let call = |volume: &Volume| {
        driver.publish(volume, &target(volume), &sweep.capability, true).unwrap();
        driver.unpublish(volume, &target(volume)).unwrap();
    };
    let check = |volume: &Volume| {
        driver.publish(volume, &target(volume), &sweep.capability, true).unwrap();
        assert!(std::fs::write(target(volume).join("file"), "x").is_err(), "read-only");
        driver.unpublish(volume, &target(volume)).unwrap();
        assert!(!target(volume).exists());
        stages_and_ends(&sweep, volume);
    };
    let look = |steps: &str| {
        let alone = steps.lines().all(|line| line.split(' ').nth(1) == Some("host:"));
        assert!(alone, "no cluster is asked: {steps}");
    };
    sweep.run_with(prepare, call, check, look);
}

/// Every step of NodeStage fails once, before and after it was done: whatever the CO may
/// forget has left nothing, and the repeat succeeds.
#[test]
#[ignore = "runs inside a node"]
fn failures_while_staging() {
    let sweep = Sweep::new(32, file_system("ext4"));
    let stage = |volume: &Volume| sweep.driver.stage(volume, &sweep.capability);
    let (_, first) = sweep.create();
    let steps = sweep.count(|| stage(&first).unwrap()).lines().count();
    let mut failed = 0;
    for step in 1..=steps {
        for at in ["before", "after"] {
            let (_, volume) = sweep.create();
            std::fs::write(&sweep.plan, format!("fail={}:{at}:{step}", libc::EPERM)).unwrap();
            let outcome = stage(&volume);
            std::fs::write(&sweep.plan, "").unwrap();
            if let Err(error) = outcome {
                failed += 1;
                if !matches!(error.kind, Kind::Busy | Kind::Timeout | Kind::Unavailable) {
                    println!("{at} step {step}: {error}");
                    volume.is_gone();
                }
            }
            stages_and_ends(&sweep, &volume);
        }
    }
    println!("{failed} of {} failed", 2 * steps);
    assert!(failed > steps, "most steps matter");
    stages_and_ends(&sweep, &first);
}

/// The same for NodeUnstage, which the CO repeats until it succeeds.
#[test]
#[ignore = "runs inside a node"]
fn failures_while_unstaging() {
    let sweep = Sweep::new(32, file_system("ext4"));
    let (_, volume) = sweep.create();
    sweep.driver.stage(&volume, &sweep.capability).unwrap();
    let steps = sweep.count(|| sweep.driver.unstage(&volume).unwrap()).lines().count();
    for step in 1..=steps {
        for at in ["before", "after"] {
            sweep.driver.stage(&volume, &sweep.capability).unwrap();
            std::fs::write(&sweep.plan, format!("fail={}:{at}:{step}", libc::EPERM)).unwrap();
            sweep.driver.unstage(&volume).unwrap_err();
            std::fs::write(&sweep.plan, "").unwrap();
            sweep.driver.unstage(&volume).unwrap();
            volume.is_gone();
        }
    }
}
