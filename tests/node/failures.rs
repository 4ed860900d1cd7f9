//! Every step that fails once, and the repeat of the call.
//!
//! What a reader gets wrong: the steps are those that a first, undisturbed call has
//! traced. What a kill at a step leaves is `tests/plugin/sweep.rs`'s.

use std::path::{Path, PathBuf};

use rbd_csi::volume::Kind;
use rbd_csi::volume::capability::Capability;
use uuid::Uuid;

use super::driver::{Driver, file_system};
use super::support::inside::{run, variable};
use super::support::volume::Volume;

struct Sweep {
    driver: Driver,
    plan: PathBuf,
    capability: Capability,
}

impl Sweep {
    fn new() -> Self {
        let plan = PathBuf::from(variable("RBD_CSI_FAULTS"));
        Self { driver: Driver::start(), plan, capability: file_system("ext4") }
    }

    fn create(&self) -> Volume {
        self.driver.create_as(Uuid::new_v4(), 32)
    }

    /// How many steps the call takes when nothing happens.
    fn count(&self, call: impl FnOnce()) -> usize {
        let mut trace = self.plan.as_os_str().to_owned();
        trace.push(".trace");
        let _ = std::fs::remove_file(&trace);
        self.arm("delay=0:before:count");
        call();
        self.arm("");
        let text = std::fs::read_to_string(trace).unwrap();
        println!("the steps:\n{text}");
        text.lines().count()
    }

    fn arm(&self, plan: &str) {
        std::fs::write(&self.plan, plan).unwrap();
    }

    /// For each step, before and after it: `prepare` a volume, let the step fail in
    /// `call`, and `check` what it left, given its outcome.
    fn run<T>(
        &self,
        steps: usize,
        prepare: impl Fn() -> Volume,
        call: impl Fn(&Volume) -> T,
        mut check: impl FnMut(&Volume, T, &str),
    ) {
        for step in 1..=steps {
            for place in ["before", "after"] {
                let volume = prepare();
                self.arm(&format!("fail={}:{place}:{step}", libc::EPERM));
                let outcome = call(&volume);
                self.arm("");
                check(&volume, outcome, &format!("{place} step {step}"));
            }
        }
    }

    /// It can be staged, used and taken down, and nothing is left.
    fn stages_and_ends(&self, volume: &Volume) {
        let driver = &self.driver;
        assert!(volume.mappings().len() <= 1, "mapped twice");
        driver.stage(volume, &self.capability).unwrap();
        assert_eq!(volume.mappings().len(), 1);
        let target = volume.target("one");
        driver.publish(volume, &target, &self.capability, false).unwrap();
        use_it(&target);
        driver.unpublish(volume, &target).unwrap();
        driver.unstage(volume).unwrap();
        volume.is_gone();
        let _ = std::fs::remove_dir_all(volume.staging.parent().unwrap());
    }
}

fn use_it(target: &Path) {
    let place = target.display();
    run(&format!("echo written >{place}/file; test \"$(cat {place}/file)\" = written"));
}

/// Whatever the CO may forget has left nothing, and the repeat succeeds.
#[test]
#[ignore = "runs inside a node"]
fn while_staging() {
    let sweep = Sweep::new();
    let stage = |volume: &Volume| sweep.driver.stage(volume, &sweep.capability);
    let first = sweep.create();
    let steps = sweep.count(|| stage(&first).unwrap());
    let mut failed = 0;
    sweep.run(
        steps,
        || sweep.create(),
        stage,
        |volume, outcome, at| {
            if let Err(error) = outcome {
                failed += 1;
                if !matches!(error.kind, Kind::Busy | Kind::Timeout | Kind::Unavailable) {
                    println!("{at}: {error}");
                    volume.is_gone();
                }
            }
            sweep.stages_and_ends(volume);
        },
    );
    println!("{failed} of {} failed", 2 * steps);
    assert!(failed > steps, "most steps matter");
    sweep.stages_and_ends(&first);
}

/// The CO repeats NodeUnstage until it succeeds.
#[test]
#[ignore = "runs inside a node"]
fn while_unstaging() {
    let sweep = Sweep::new();
    let volume = sweep.create();
    let stage = || sweep.driver.stage(&volume, &sweep.capability).unwrap();
    let unstage = |volume: &Volume| sweep.driver.unstage(volume);
    stage();
    let steps = sweep.count(|| unstage(&volume).unwrap());
    let prepare = || {
        stage();
        volume.clone()
    };
    sweep.run(steps, prepare, unstage, |volume, outcome, at| {
        assert!(outcome.is_err(), "{at}");
        unstage(volume).unwrap();
        volume.is_gone();
    });
}
