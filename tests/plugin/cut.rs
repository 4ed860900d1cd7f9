//! The cluster cut off in the middle of staging and of unstaging: at a step that has begun
//! to use the device, not before the driver has asked the cluster for anything.
//!
//! What a reader gets wrong: a fault holds the driver before the step, and the cut is made
//! meanwhile, so that the step itself meets a device whose cluster is away.

use std::time::{Duration, Instant};

use tonic::Status;

use super::outage::{answered, is_served, succeeds};
use super::process::{Plugin, ask};
use super::support::inside::{run, variable};
use super::volume::{Form, Volume, read, write};

/// Seconds that the call is given; the fault takes three of them.
const LIMIT: u64 = 12;
const TEXT: &str = "written by a pod";

/// What is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// The node's way to the volume's cluster; it reaches the other one.
    Way,
    /// All of the node's network.
    Node,
}

impl Cut {
    fn begin(self) {
        match self {
            Self::Way => self.route("add"),
            Self::Node => ask("cut"),
        }
    }

    fn end(self) {
        match self {
            Self::Way => self.route("del"),
            Self::Node => ask("join"),
        }
    }

    fn route(self, what: &str) {
        let monitors = variable("LAB_MONITORS");
        run(&format!("ip route {what} blackhole {}/32", monitors.split(':').next().unwrap()));
    }
}

struct Site {
    maker: Plugin,
    plugin: Plugin,
    /// Published at one path; on the cluster that is never cut off but with the node.
    other: Volume,
    /// Not staged, and there as well.
    other_new: Volume,
}

impl Site {
    fn new() -> Self {
        let (maker, plugin) = (Plugin::maker(), Plugin::node());
        let create = |form: Form| maker.create("b", form, form.mib());
        let (other, other_new) = (create(Form::Ext4), create(Form::Block));
        plugin.stage(&other).unwrap();
        plugin.publish(&other, &other.target("one")).unwrap();
        Self { maker, plugin, other, other_new }
    }

    fn create(&self, form: Form) -> Volume {
        self.maker.create("a", form, form.mib())
    }

    /// One that is not staged and holds what a pod has written.
    fn with_data(&self, form: Form) -> Volume {
        let volume = self.create(form);
        self.plugin.fill(&volume, TEXT);
        volume
    }

    /// Makes the call, cuts the cluster off when it has come to the step, sees that it is
    /// answered with what hangs while the others go on, and joins it again.
    fn cut_at(&self, step: &str, cut: Cut, says: &str, call: impl Fn(u64) -> Result<(), Status> + Sync) {
        let at = format!("{cut:?} cut before {step}");
        self.plugin.arm(&format!("delay=3000:before:{step}"));
        let since = Instant::now();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| (answered(&at, call(LIMIT)), since.elapsed()));
            self.plugin.wait_for(step);
            cut.begin();
            println!("{at}: cut after {:.1?}", since.elapsed());
            self.the_others_go_on(cut);
            let (said, took) = first.join().unwrap();
            let said = said.unwrap_or_else(|| panic!("{at}: it did not need the cluster"));
            assert!(said.contains(says), "{at}: {said}");
            assert!(took < Duration::from_secs(LIMIT), "{at}: answered after {took:?}");
        });
        // A repeat joins what hangs, and says the same.
        let said = answered(&at, call(3)).unwrap_or_else(|| panic!("{at}: done without the cluster"));
        assert!(said.contains(says), "{at}, again: {said}");
        self.plugin.arm("");
        cut.end();
        let since = Instant::now();
        succeeds(&at, || call(30));
        println!("{at}: done {:.1?} after the cluster is back", since.elapsed());
    }

    fn the_others_go_on(&self, cut: Cut) {
        for _ in 0..3 {
            is_served(&self.plugin, &self.other);
        }
        if cut == Cut::Way {
            self.plugin.stage_within(&self.other_new, 30).unwrap();
            self.plugin.unstage_within(&self.other_new, 30).unwrap();
            self.other_new.is_gone_at("while the other cluster is cut off");
        }
    }

    /// The volume can be used as ever and has what was written.
    fn lives_on(&self, volume: Volume, at: &str) {
        self.plugin.stage(&volume).unwrap();
        volume.is_staged_once(at);
        let target = volume.target("one");
        self.plugin.publish(&volume, &target).unwrap();
        assert_eq!(read(&target, TEXT.len()), TEXT, "{at}");
        self.plugin.unpublish(&volume, &target).unwrap();
        self.plugin.unstage(&volume).unwrap();
        volume.is_gone_at(at);
        self.maker.delete(&volume);
    }

    fn end(self) {
        let target = self.other.target("one");
        self.plugin.unpublish(&self.other, &target).unwrap();
        self.plugin.unstage(&self.other).unwrap();
        self.maker.delete(&self.other);
        self.maker.delete(&self.other_new);
    }
}

#[test]
#[ignore = "runs inside a node"]
fn while_staging() {
    let site = Site::new();
    for (form, cut) in [(Form::Ext4, Cut::Way), (Form::Xfs, Cut::Node)] {
        let volume = site.create(form);
        let says = format!("mkfs.{} on /dev/rbd", if form == Form::Xfs { "xfs" } else { "ext4" });
        site.cut_at("host: mkfs", cut, &says, |seconds| site.plugin.stage_within(&volume, seconds));
        volume.is_staged_once("cut off before mkfs");
        write(&volume.entry(), TEXT);
        site.plugin.unstage(&volume).unwrap();
        site.lives_on(volume, "cut off before mkfs");

        let volume = site.with_data(form);
        site.cut_at("host: mount", cut, "mounting /dev/rbd", |seconds| {
            site.plugin.stage_within(&volume, seconds)
        });
        volume.is_staged_once("cut off before mount");
        assert_eq!(read(&volume.entry(), TEXT.len()), TEXT);
        site.plugin.unstage(&volume).unwrap();
        site.lives_on(volume, "cut off before mount");
    }
    site.end();
}

#[test]
#[ignore = "runs inside a node"]
fn while_unstaging() {
    let site = Site::new();
    for (form, cut) in [(Form::Ext4, Cut::Way), (Form::Xfs, Cut::Node)] {
        for (step, says) in [("host: unmount", "unmounting /dev/rbd"), ("host: unmap", "unmapping /dev/rbd")]
        {
            let volume = site.create(form);
            site.plugin.stage(&volume).unwrap();
            write(&volume.entry(), TEXT);
            // Not written to the cluster yet: the umount has to.
            run(&format!("head -c 1000000 /dev/urandom >{}/more", volume.entry().display()));
            site.cut_at(step, cut, says, |seconds| site.plugin.unstage_within(&volume, seconds));
            volume.is_gone_at(&format!("cut off before {step}"));
            site.lives_on(volume, step);
        }
    }
    site.end();
}
