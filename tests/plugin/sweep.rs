//! The plugin killed before and after each step of its calls, started again, and asked
//! again.
//!
//! What a reader gets wrong: the steps are those that undisturbed calls have traced. Those
//! that only a plugin takes that was just started (it connects, it loads the module) have a
//! case of their own with such a plugin; for all others the plugin is the one that went on
//! after the kill before, since a start costs more in the node than all the rest. Steps are
//! named (the k-th of that name), since those that run side by side change places. A run draws a
//! sample of the kills; `SWEEP=full` takes all (`make soak`).

use std::time::{Duration, Instant};

use rbd_csi::host::krbd;
use tonic::Status;

use super::process::Plugin;
use super::readers::{for_readers, has_all, write_during};
use super::support::inside::run;
use super::support::random::{self, Random};
use super::volume::{Form, Volume, read, write};

const TEXT: &str = "written by a pod";

struct Sweep {
    plugin: Plugin,
    maker: Plugin,
    form: Form,
    /// Whether the steps that only a plugin takes that was just started are cases, too.
    opens: bool,
    /// The first step that is a case; those before it are other sweeps'.
    from: &'static str,
    /// Steps that fail as they should: nothing can strike after them.
    failing: &'static [&'static str],
}

impl Sweep {
    fn new(form: Form) -> Self {
        Self { plugin: Plugin::node(), maker: Plugin::maker(), form, opens: false, from: "", failing: &[] }
    }

    fn blank(&self) -> Volume {
        self.maker.create("a", self.form, self.form.mib())
    }

    /// One that is not staged and holds what a pod has written.
    fn with_data(&self) -> Volume {
        let volume = self.blank();
        self.plugin.fill(&volume, TEXT);
        volume
    }

    /// For each step: `prepare` a volume, kill the plugin in `call`, start it again, and
    /// `check` that everything goes on from there. Gives the steps.
    fn run(
        mut self,
        prepare: impl Fn(&Self) -> Volume,
        call: impl Fn(&Plugin, &Volume) -> Result<(), Status>,
        check: impl Fn(&Self, &Volume, &str),
    ) -> Vec<String> {
        let mut trace = |fresh: bool| {
            let volume = prepare(&self);
            if fresh {
                self.start_fresh();
            }
            self.plugin.arm("");
            call(&self.plugin, &volume).unwrap();
            let steps = self.plugin.steps();
            check(&self, &volume, "undisturbed");
            steps
        };
        let (fresh, used) = (trace(true), trace(false));
        let opening = &fresh[..if self.opens { fresh.len() - common_end(&fresh, &used) } else { 0 }];
        println!("the steps: {}\nby a plugin just started: {}", used.join(", "), opening.join(", "));
        let (since, mut kills) = (Instant::now(), 0);
        let first = used.iter().position(|step| step == self.from).unwrap_or(0);
        let used = &used[first..];
        let steps = opening.iter().map(|step| (true, step)).chain(used.iter().map(|step| (false, step)));
        let cases = steps.flat_map(|(fresh, step)| [(fresh, step, "before"), (fresh, step, "after")]);
        let fails = |(_, step, place): &(bool, &String, &str)| {
            *place == "after" && self.failing.contains(&step.as_str())
        };
        let cases = sample(cases.filter(|case| !fails(case)).collect());
        for (fresh, step, place) in cases {
            let at = format!("killed {place} {step}");
            let volume = prepare(&self);
            if fresh {
                self.start_fresh();
            }
            self.plugin.arm(&format!("kill:{place}:{step}"));
            let answer = call(&self.plugin, &volume);
            assert!(self.plugin.was_killed(), "{at}: it was not killed, and answered {answer:?}");
            answer.unwrap_err();
            self.plugin.arm("");
            self.plugin.start_again();
            check(&self, &volume, &at);
            kills += 1;
        }
        let time = since.elapsed();
        println!("{kills} kills in {time:.1?}, {:.2?} each", time / kills);
        fresh
    }

    /// A plugin that has asked Ceph nothing, on a kernel without rbd: loading it is a step of
    /// the next call then. It loads it by itself when it starts, beside serving, so that has
    /// to be over first.
    fn start_fresh(&mut self) {
        unload_module();
        let (absent, before) = (!krbd::is_loaded(), self.plugin.loads());
        self.plugin.restart();
        let until = Instant::now() + Duration::from_secs(20);
        while absent && self.plugin.loads() == before {
            assert!(Instant::now() < until, "a plugin that starts does not load rbd");
            std::thread::sleep(Duration::from_millis(10));
        }
        unload_module();
    }

    /// The same call again; what it gives is one device with one mount.
    fn stage_again(&self, volume: &Volume, at: &str) {
        assert!(volume.mappings().len() <= 1, "{at}: mapped twice");
        self.plugin.stage(volume).unwrap_or_else(|status| panic!("{at}: {status}"));
        volume.is_staged_once(at);
    }

    fn unstage_again(&self, volume: &Volume, at: &str) {
        self.plugin.unstage(volume).unwrap_or_else(|status| panic!("{at}: {status}"));
        volume.is_gone_at(at);
    }
}

/// How many kills a run has, unless all are asked for (`SWEEP=full`).
const SAMPLE: usize = 10;

fn sample<T>(cases: Vec<T>) -> Vec<T> {
    if random::full() {
        return cases;
    }
    let mut drawn = Random::new(random::seed("a sample of the sweep")).shuffled(cases);
    drawn.truncate(SAMPLE);
    drawn
}

fn unload_module() {
    if krbd::is_loaded() && krbd::mappings().unwrap().is_empty() {
        run("modprobe -r rbd");
    }
}

/// How many steps at the end of both are the same.
fn common_end(one: &[String], other: &[String]) -> usize {
    let name = |step: &String| step.split('#').next().unwrap().to_owned();
    one.iter().rev().zip(other.iter().rev()).take_while(|(a, b)| name(a) == name(b)).count()
}

/// Blank volumes: each case has one of its own, which is used and deleted afterwards.
fn stage_blank(form: Form, opens: bool) {
    let check = |sweep: &Sweep, volume: &Volume, at: &str| {
        sweep.stage_again(volume, at);
        let target = volume.target("one");
        sweep.plugin.publish(volume, &target).unwrap();
        write(&target, TEXT);
        sweep.plugin.unpublish(volume, &target).unwrap();
        sweep.unstage_again(volume, at);
        sweep.maker.delete(volume);
    };
    let sweep = Sweep { opens, ..Sweep::new(form) };
    let steps = sweep.run(Sweep::blank, Plugin::stage, check);
    assert_eq!(steps.iter().any(|step| step == "host: mkfs#1"), form != Form::Block, "{steps:?}");
}

/// One volume with data, staged again and again.
fn stage_with_data(form: Form) {
    let sweep = Sweep::new(form);
    let volume = sweep.with_data();
    let check = |sweep: &Sweep, volume: &Volume, at: &str| {
        sweep.stage_again(volume, at);
        assert_eq!(read(&volume.entry(), TEXT.len()), TEXT, "{at}");
        sweep.unstage_again(volume, at);
    };
    let steps = sweep.run(|_| volume.clone(), Plugin::stage, check);
    assert!(!steps.iter().any(|step| step.starts_with("host: mkfs")), "{steps:?}");
}

/// One volume with data, unstaged again and again; no cluster is asked for that.
fn unstage(form: Form) {
    let sweep = Sweep::new(form);
    let volume = sweep.with_data();
    let prepare = |sweep: &Sweep| {
        sweep.plugin.stage(&volume).unwrap();
        assert_eq!(read(&volume.entry(), TEXT.len()), TEXT);
        volume.clone()
    };
    let steps = sweep.run(prepare, Plugin::unstage, Sweep::unstage_again);
    assert!(steps.iter().all(|step| step.starts_with("host: ")), "{steps:?}");
}

#[test]
#[ignore = "runs inside a node"]
fn staging_a_blank_ext4_is_resumed_after_a_kill_at_every_step() {
    stage_blank(Form::Ext4, true);
}

#[test]
#[ignore = "runs inside a node"]
fn staging_a_blank_xfs_is_resumed_after_a_kill_at_every_step() {
    stage_blank(Form::Xfs, false);
}

#[test]
#[ignore = "runs inside a node"]
fn staging_a_raw_device_is_resumed_after_a_kill_at_every_step() {
    stage_blank(Form::Block, false);
}

#[test]
#[ignore = "runs inside a node"]
fn staging_ext4_with_data_is_resumed_after_a_kill_at_every_step() {
    stage_with_data(Form::Ext4);
}

#[test]
#[ignore = "runs inside a node"]
fn staging_xfs_with_data_is_resumed_after_a_kill_at_every_step() {
    stage_with_data(Form::Xfs);
}

#[test]
#[ignore = "runs inside a node"]
fn unstaging_ext4_is_resumed_after_a_kill_at_every_step() {
    unstage(Form::Ext4);
}

#[test]
#[ignore = "runs inside a node"]
fn unstaging_xfs_is_resumed_after_a_kill_at_every_step() {
    unstage(Form::Xfs);
}

#[test]
#[ignore = "runs inside a node"]
fn unstaging_a_raw_device_is_resumed_after_a_kill_at_every_step() {
    unstage(Form::Block);
}

/// NodePublish (read-only) and NodeUnpublish.
#[test]
#[ignore = "runs inside a node"]
fn publishing_is_resumed_after_a_kill_at_every_step() {
    let sweep = Sweep::new(Form::Ext4);
    let volume = sweep.with_data();
    sweep.plugin.stage(&volume).unwrap();
    let target = volume.target("reader");
    let both = |plugin: &Plugin, volume: &Volume| {
        plugin.publish_as(volume, &target, true)?;
        plugin.unpublish(volume, &target)
    };
    let check = |sweep: &Sweep, volume: &Volume, at: &str| {
        let answer = sweep.plugin.publish_as(volume, &target, true);
        answer.unwrap_or_else(|status| panic!("{at}: {status}"));
        assert_eq!(read(&target, TEXT.len()), TEXT, "{at}");
        assert!(std::fs::write(target.join("file"), "x").is_err(), "{at}: read-only");
        assert_eq!(volume.mounts().len(), 2, "{at}");
        sweep.plugin.unpublish(volume, &target).unwrap();
        assert!(!target.exists(), "{at}");
        volume.is_staged_once(at);
    };
    let steps = sweep.run(|_| volume.clone(), both, check);
    assert!(steps.iter().all(|step| step.starts_with("host: ")), "{steps:?}");
    Plugin::node().unstage(&volume).unwrap();
    volume.is_gone_at("the end");
}

/// One mounted volume, grown a little in each case.
fn grow(form: Form) {
    let sweep = Sweep::new(form);
    let volume = sweep.with_data();
    sweep.plugin.stage(&volume).unwrap();
    let (size, before) = (std::cell::Cell::new(form.mib()), std::cell::Cell::new(0));
    let grown = |sweep: &Sweep| {
        before.set(sweep.plugin.total_bytes(&volume, &volume.entry()).unwrap());
        size.set(size.get() + 32);
        run(&format!("rbd resize --no-progress -s {}M {}", size.get(), volume.image));
        volume.clone()
    };
    let expand = |plugin: &Plugin, volume: &Volume| plugin.expand(volume, &volume.entry());
    let check = |sweep: &Sweep, volume: &Volume, at: &str| {
        let answer = sweep.plugin.expand(volume, &volume.entry());
        answer.unwrap_or_else(|status| panic!("{at}: {status}"));
        let bytes = sweep.plugin.total_bytes(volume, &volume.entry()).unwrap();
        assert!(bytes > before.get() + (20 << 20), "{at}: {bytes} of {} MiB", size.get());
        assert_eq!(read(&volume.entry(), TEXT.len()), TEXT, "{at}");
        volume.is_staged_once(at);
    };
    let steps = sweep.run(grown, expand, check);
    assert!(steps.iter().all(|step| step.starts_with("host: ")), "{steps:?}");
    let grows = steps.iter().any(|step| step == "host: grow file system#1");
    assert_eq!(grows, form != Form::Block, "{steps:?}");
    Plugin::node().unstage(&volume).unwrap();
    volume.is_gone_at("the end");
}

#[test]
#[ignore = "runs inside a node"]
fn growing_ext4_is_resumed_after_a_kill_at_every_step() {
    grow(Form::Ext4);
}

#[test]
#[ignore = "runs inside a node"]
fn growing_xfs_is_resumed_after_a_kill_at_every_step() {
    grow(Form::Xfs);
}

#[test]
#[ignore = "runs inside a node"]
fn growing_a_raw_device_is_resumed_after_a_kill_at_every_step() {
    grow(Form::Block);
}

/// A volume of its own for each case, restored from the snapshot of a file system in use.
fn stage_dirty(form: Form) {
    // The mounts by which the kernel says that the journal has to be replayed.
    let failing = &["host: mount#1", "host: mount#2"];
    let sweep = Sweep { failing, from: "host: mount#1", ..Sweep::new(form) };
    let source = sweep.blank();
    write_during(&sweep.plugin, &source, || {
        run(&format!("rbd snap create --no-progress {}@held", source.image));
    });
    let restored = |_: &Sweep| {
        let uuid = uuid::Uuid::new_v4().to_string();
        let image = format!("csi-vol-{uuid}");
        run(&format!(
            "rbd clone --rbd-default-clone-format 2 --image-feature layering {0}@held {image}; \
             rados -p rbd setomapval csi.volume.{uuid} csi.volname pvc-{uuid}; \
             rados -p rbd setomapval csi.volume.{uuid} csi.imagename {image}",
            source.image
        ));
        let id = format!("{}{uuid}", &source.id[..source.id.len() - uuid.len()]);
        for_readers(Volume::new(id, source.context.clone(), "a", form.capability()))
    };
    let check = |sweep: &Sweep, volume: &Volume, at: &str| {
        sweep.stage_again(volume, at);
        has_all(&volume.entry(), at);
        assert!(volume.mappings()[0].read_only, "{at}");
        sweep.unstage_again(volume, at);
        // It is clean from now on.
        sweep.plugin.arm("");
        sweep.plugin.stage(volume).unwrap();
        assert!(!sweep.plugin.steps().iter().any(|step| step.contains("replay")), "{at}");
        sweep.unstage_again(volume, at);
    };
    let steps = sweep.run(restored, Plugin::stage, check);
    assert!(steps.iter().any(|step| step == "host: replay journal#1"), "{steps:?}");
}

#[test]
#[ignore = "runs inside a node"]
fn staging_a_dirty_ext4_for_readers_is_resumed_after_a_kill_at_every_step() {
    stage_dirty(Form::Ext4);
}

#[test]
#[ignore = "runs inside a node"]
fn staging_a_dirty_xfs_for_readers_is_resumed_after_a_kill_at_every_step() {
    stage_dirty(Form::Xfs);
}
