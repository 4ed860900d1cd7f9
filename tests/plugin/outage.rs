//! One of two clusters stands still: its calls are answered all the same and succeed when
//! it is back, and what belongs to the other one goes on meanwhile.
//!
//! What a reader gets wrong: a call that is answered late is not told from one that was
//! answered by the client's own clock but by the code, which is CANCELLED then.

use std::time::{Duration, Instant};

use tonic::{Code, Status};

use super::process::{Plugin, ask};
use super::support::inside::run;
use super::volume::{Form, Volume, read, write};

/// Seconds that a call to the cluster that stands still is given.
const LIMIT: u64 = 10;
const TEXT: &str = "written by a pod";

/// Fails so that the CO calls again, before its deadline, and says where it is.
#[track_caller]
pub fn answered(what: &str, answer: Result<(), Status>) -> Option<String> {
    let Err(status) = answer else {
        println!("{what}: OK");
        return None;
    };
    println!("{what}: {status}");
    let again = [Code::DeadlineExceeded, Code::Unavailable, Code::Aborted];
    assert!(again.contains(&status.code()), "{what}: {status}");
    Some(status.message().to_owned())
}

/// Asks again until it succeeds, as a CO does.
#[track_caller]
pub fn succeeds(what: &str, call: impl Fn() -> Result<(), Status>) {
    let until = Instant::now() + Duration::from_secs(120);
    while let Err(status) = call() {
        let again = [Code::DeadlineExceeded, Code::Unavailable, Code::Aborted];
        assert!(again.contains(&status.code()) && Instant::now() < until, "{what}: {status}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Publishes at a second path, measures and unpublishes; each within its deadline.
#[track_caller]
pub fn is_served(plugin: &Plugin, volume: &Volume) {
    let target = volume.target("two");
    plugin.publish(volume, &target).unwrap();
    assert!(plugin.total_bytes(volume, &target).unwrap() > 0);
    plugin.unpublish(volume, &target).unwrap();
}

/// What is on a node: on the cluster `a`, which will stand still, and on `b`.
struct Node {
    maker: Plugin,
    plugin: Plugin,
    /// Not staged yet, on `a`.
    new: Volume,
    /// Staged on `a`, with something that has to be written before an umount.
    dirty: Volume,
    /// A raw device on `a`.
    raw: Volume,
    /// Published at one path, on `a`.
    shown: Volume,
    /// The same on `b`, as a file system and as a raw device.
    others: [Volume; 2],
    /// Not staged yet, on `b`.
    other_new: Volume,
}

impl Node {
    fn new() -> Self {
        let (maker, plugin) = (Plugin::maker(), Plugin::node());
        let create = |cluster, form: Form| maker.create(cluster, form, form.mib());
        let ext4 = |cluster| create(cluster, Form::Ext4);
        let node = Self {
            new: ext4("a"),
            dirty: ext4("a"),
            raw: create("a", Form::Block),
            shown: ext4("a"),
            others: [ext4("b"), create("b", Form::Block)],
            other_new: ext4("b"),
            maker,
            plugin,
        };
        for volume in [&node.dirty, &node.raw, &node.shown].into_iter().chain(&node.others) {
            node.plugin.stage(volume).unwrap();
        }
        for volume in [&node.shown, &node.others[0], &node.others[1]] {
            let target = volume.target("one");
            node.plugin.publish(volume, &target).unwrap();
            write(&target, TEXT);
        }
        run(&format!("head -c 1000000 /dev/urandom >{}/file", node.dirty.entry().display()));
        node
    }

    /// What needs nothing of `a`, while `a` stands still.
    fn the_others_go_on(&self) {
        for _ in 0..3 {
            for volume in [&self.shown, &self.others[0], &self.others[1]] {
                is_served(&self.plugin, volume);
            }
        }
        for other in &self.others {
            let target = other.target("one");
            assert_eq!(read(&target, TEXT.len()), TEXT);
            self.plugin.unpublish(other, &target).unwrap();
            self.plugin.unstage_within(other, 40).unwrap();
            other.is_gone_at("while the other cluster stands still");
        }
        self.plugin.stage_within(&self.other_new, 60).unwrap();
        self.plugin.unstage_within(&self.other_new, 40).unwrap();
    }

    /// Everything on `a` can be done now, and nothing is lost.
    fn goes_on(&self) {
        let plugin = &self.plugin;
        succeeds("staging the new one", || plugin.stage_within(&self.new, 30));
        self.new.is_staged_once("afterwards");
        for volume in [&self.dirty, &self.raw, &self.new] {
            succeeds("unstaging", || plugin.unstage_within(volume, 30));
            volume.is_gone_at("afterwards");
        }
        let target = self.shown.target("one");
        assert_eq!(read(&target, TEXT.len()), TEXT);
        plugin.unpublish(&self.shown, &target).unwrap();
        succeeds("unstaging", || plugin.unstage_within(&self.shown, 30));
        for volume in [&self.new, &self.dirty, &self.raw, &self.shown, &self.other_new] {
            volume.is_gone_at("at the end");
            self.maker.delete(volume);
        }
        self.others.iter().for_each(|other| self.maker.delete(other));
    }
}

/// What the calls to `a` said: of the staging, and of the unstaging of the dirty volume
/// and of the raw one. `None` is OK.
struct Said {
    staging: Option<String>,
    dirty: Option<String>,
    raw: Option<String>,
}

fn during(begin: impl Fn(), end: impl Fn()) -> Said {
    let node = Node::new();
    begin();
    let said = std::thread::scope(|scope| {
        let plugin = &node.plugin;
        let staging = scope.spawn(|| answered("staging", plugin.stage_within(&node.new, LIMIT)));
        let dirty = scope.spawn(|| answered("unstaging", plugin.unstage_within(&node.dirty, LIMIT)));
        let raw = scope.spawn(|| answered("unstaging raw", plugin.unstage_within(&node.raw, LIMIT)));
        node.the_others_go_on();
        Said { staging: staging.join().unwrap(), dirty: dirty.join().unwrap(), raw: raw.join().unwrap() }
    });
    // A repeat joins what still runs, or says the same.
    answered("staging again", node.plugin.stage_within(&node.new, LIMIT));
    end();
    node.goes_on();
    said
}

#[test]
#[ignore = "runs inside a node"]
fn osd_paused() {
    let said = during(|| ask("pause"), || ask("resume"));
    assert!(said.staging.unwrap().contains("looking up volume"));
    assert!(said.dirty.unwrap().contains("unmounting /dev/rbd"));
    assert!(said.raw.unwrap().contains("unmapping /dev/rbd"));
}

#[test]
#[ignore = "runs inside a node"]
fn monitor_stopped() {
    let said = during(|| ask("stop the monitor"), || ask("resume"));
    assert!(said.staging.unwrap().contains("asking the monitors"));
    // The OSD serves the clients that it knows.
    assert_eq!((said.dirty, said.raw), (None, None));
}

#[test]
#[ignore = "runs inside a node"]
fn unreachable() {
    let address = super::support::inside::variable("LAB_MONITORS");
    let address = address.split(':').next().unwrap().to_owned();
    let said = during(
        || drop(run(&format!("ip route add blackhole {address}/32"))),
        || drop(run(&format!("ip route del blackhole {address}/32"))),
    );
    assert!(said.staging.unwrap().contains("looking up volume"));
    assert!(said.dirty.unwrap().contains("unmounting /dev/rbd"));
    assert!(said.raw.unwrap().contains("unmapping /dev/rbd"));
}
