//! The node plugin as a container orchestrator meets it: the process itself, in a krbd
//! node, asked through gRPC, killed, cut off from its clusters, and watched meanwhile.
//!
//! What a reader gets wrong: most files here run in the lab's node, each test of them in a
//! process of its own. This file runs outside and is the hand on the clusters: a part
//! inside says what it wishes (`process::ask`) and waits until it is done.

// A test says by a panic that something is not as it must be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod canary;
mod clusters;
mod configured;
mod cost;
mod cut;
mod kinds;
mod legacy;
mod meeting;
mod outage;
mod process;
mod readers;
#[path = "../support/mod.rs"]
mod support;
mod sweep;
mod volume;

use std::cell::Cell;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::fixture::{PLAIN, Recorded, image_id};
use support::inside::{Inside, runs_inside};
use support::lab::{Cluster, Lab, LabSpec, Node};

fn lab() -> &'static Lab {
    Lab::shared(LabSpec { clusters: 2, nodes: 2 })
}

/// A part that knows both clusters.
fn inside() -> Inside<'static> {
    let (a, b) = (lab().cluster(0), lab().cluster(1));
    Inside::new(lab()).of(a).with("B_MONITORS", &b.monitors).with("B_KEY", &b.admin_key)
}

/// Runs a part inside and fulfils its wishes.
fn run_with(part: &Inside<'_>, test: &str, mut fulfil: impl FnMut(&str)) -> String {
    let mut running = part.command(test).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut answers = running.stdin.take().unwrap();
    let mut said = String::new();
    for line in BufReader::new(running.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        println!("{line}");
        if let Some(wish) = line.strip_prefix(process::WISH) {
            fulfil(wish);
            writeln!(answers, "done").unwrap();
        }
        said.push_str(&line);
        said.push('\n');
    }
    let status = running.wait().unwrap();
    assert!(status.success() && said.contains("1 passed"), "{test}: {status}");
    said
}

runs_inside!(
    inside:
    kinds::a_file_system_grows_when_it_is_staged_again,
    kinds::each_call_is_another_drivers,
    kinds::a_label_with_a_comma_reaches_the_kernel_whole,
    kinds::a_kernel_that_gives_each_device_a_major_number,
    kinds::what_another_driver_staged_with_nbd_is_not_touched,
    configured::the_kernel_gets_the_addresses_of_the_monitor_map,
    configured::the_kernel_connects_in_the_configured_network_namespace,
    cost::publishing_and_measuring_costs_no_operation_and_no_process,
    sweep::staging_a_blank_ext4_is_resumed_after_a_kill_at_every_step,
    sweep::staging_a_blank_xfs_is_resumed_after_a_kill_at_every_step,
    sweep::staging_a_raw_device_is_resumed_after_a_kill_at_every_step,
    sweep::staging_ext4_with_data_is_resumed_after_a_kill_at_every_step,
    sweep::staging_xfs_with_data_is_resumed_after_a_kill_at_every_step,
    sweep::unstaging_ext4_is_resumed_after_a_kill_at_every_step,
    sweep::unstaging_xfs_is_resumed_after_a_kill_at_every_step,
    sweep::unstaging_a_raw_device_is_resumed_after_a_kill_at_every_step,
    sweep::publishing_is_resumed_after_a_kill_at_every_step,
    sweep::staging_a_dirty_ext4_for_readers_is_resumed_after_a_kill_at_every_step,
    sweep::staging_a_dirty_xfs_for_readers_is_resumed_after_a_kill_at_every_step,
    sweep::growing_ext4_is_resumed_after_a_kill_at_every_step,
    sweep::growing_xfs_is_resumed_after_a_kill_at_every_step,
    sweep::growing_a_raw_device_is_resumed_after_a_kill_at_every_step,
);

/// Runs a part that pauses the I/O of the first cluster or stops its monitor, and lets it
/// go on again.
fn with_outages(test: &str) {
    let cluster = lab().cluster(0);
    let (mut paused, mut stopped) = (None, None);
    run_with(&inside(), test, |wish| match wish {
        "pause" => paused = Some(cluster.pause()),
        "stop the monitor" => stopped = Some(cluster.stop_monitor()),
        "resume" => {
            paused = None;
            stopped = None;
        }
        other => panic!("{test} wishes {other}"),
    });
}

#[test]
fn io_that_is_paused_hangs_no_call_and_no_other_volume() {
    with_outages("outage::osd_paused");
}

#[test]
fn a_monitor_that_is_silent_hangs_no_call_and_no_other_volume() {
    with_outages("outage::monitor_stopped");
}

#[test]
fn a_cluster_that_is_cut_off_hangs_no_call_and_no_other_volume() {
    with_outages("outage::unreachable");
}

/// Runs a part that cuts its node off the network and joins it again.
fn with_cuts(test: &str) {
    let link = Link { node: lab().node(0), is_cut: Cell::new(false) };
    run_with(&inside(), test, |wish| match wish {
        "cut" => link.cut(),
        "join" => link.join(),
        other => panic!("{test} wishes {other}"),
    });
}

/// A node's network, which comes back when the test ends, also by failing: the tests behind
/// it have the same node.
struct Link {
    node: &'static Node,
    is_cut: Cell<bool>,
}

impl Link {
    fn cut(&self) {
        self.is_cut.set(true);
        self.node.cut();
    }

    fn join(&self) {
        self.is_cut.set(false);
        self.node.join();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.is_cut.get() {
            // A panic in here would end the whole program.
            drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.join())));
        }
    }
}

#[test]
fn a_cluster_that_is_cut_off_in_the_middle_of_staging() {
    with_cuts("cut::while_staging");
}

#[test]
fn a_cluster_that_is_cut_off_in_the_middle_of_unstaging() {
    with_cuts("cut::while_unstaging");
}

/// What CreateVolume leaves of a volume of that uuid.
fn make_volume(cluster: &Cluster, uuid: &str, mib: &str) {
    let (image, object) = (format!("csi-vol-{uuid}"), format!("csi.volume.{uuid}"));
    let features = "layering,exclusive-lock,object-map,fast-diff,deep-flatten";
    cluster.rbd(&["create", "--size", mib, "--image-feature", features, &image]);
    for (key, value) in [("csi.volname", format!("pvc-{uuid}")), ("csi.imagename", image)] {
        cluster.rados(&["-p", "rbd", "setomapval", &object, key, &value]);
    }
}

/// The uuids begin so; `clusters` ends them with the number of the form.
fn make_volumes(clusters: &[&Cluster], beginning: &str) {
    for cluster in clusters {
        for (form, mib) in [(volume::Form::Ext4, "32"), (volume::Form::Block, "8")] {
            make_volume(cluster, &format!("{beginning}{}", form as u8), mib);
        }
    }
}

fn pool_id(cluster: &Cluster) -> String {
    let pools: serde_json::Value =
        serde_json::from_str(&cluster.ceph(&["osd", "lspools", "--format", "json"])).unwrap();
    let pools = pools.as_array().unwrap();
    pools.iter().find(|pool| pool["poolname"] == "rbd").unwrap()["poolnum"].to_string()
}

#[test]
fn equal_names_on_two_clusters_are_kept_apart() {
    let clusters = [lab().cluster(0), lab().cluster(1)];
    assert_eq!(pool_id(clusters[0]), pool_id(clusters[1]), "the pools' ids are equal, too");
    let uuids = "7a11e5aa-0000-4000-8000-00000000000";
    make_volumes(&clusters, uuids);
    let part = inside().with("TWINS", uuids).with("POOL_ID", &pool_id(clusters[0]));
    println!("{}", part.run("clusters::twins_are_kept_apart"));
}

#[test]
fn of_two_nodes_that_stage_a_volume_at_once_one_wins() {
    let cluster = lab().cluster(0);
    let uuids = "2a0de5aa-0000-4000-8000-00000000000";
    make_volumes(&[cluster], uuids);
    let meeting = meeting::Meeting::of(2);
    std::thread::scope(|scope| {
        for (me, other) in [(0, 1), (1, 0)] {
            let part = inside()
                .on(me)
                .with("TWINS", uuids)
                .with("POOL_ID", &pool_id(cluster))
                .with("MY_IP", &lab().node(me).ip)
                .with("OTHER_IP", &lab().node(other).ip);
            let meeting = &meeting;
            scope.spawn(move || {
                run_with(&part, "clusters::one_of_two_nodes_wins", |wish| {
                    let wishes = meeting.arrive(wish);
                    if ["won", "lost"].contains(&wish) {
                        assert!(wishes == ["lost", "won"], "the two nodes: {wishes:?}");
                    }
                });
            });
        }
    });
}

/// A CSI snapshot of a volume's image, laid out as ceph-csi lays it out, and a volume restored
/// from it.
fn restore(cluster: &Cluster, source: &str, uuid: &str) {
    let (source, snap, image) =
        (format!("csi-vol-{source}"), format!("csi-snap-{uuid}"), format!("csi-vol-{uuid}"));
    let at = |image: &str| format!("{image}@{snap}");
    let clone = |from: &str, to: &str| {
        cluster.rbd(&["clone", "--rbd-default-clone-format", "2", "--image-feature", "layering", from, to]);
    };
    cluster.rbd(&["snap", "create", "--no-progress", &at(&source)]);
    clone(&at(&source), &snap);
    cluster.rbd(&["snap", "rm", "--no-progress", &at(&source)]);
    cluster.rbd(&["snap", "create", "--no-progress", &at(&snap)]);
    clone(&at(&snap), &image);
    let object = format!("csi.volume.{uuid}");
    for (key, value) in [("csi.volname", format!("pvc-{uuid}")), ("csi.imagename", image)] {
        cluster.rados(&["-p", "rbd", "setomapval", &object, key, &value]);
    }
}

/// Volumes restored from snapshots of such as a pod on the first node was writing.
fn restored(lab: &Lab, sources: &str, uuids: &str) {
    let cluster = lab.cluster(0);
    for form in readers::FORMS {
        make_volume(cluster, &format!("{sources}{}", form as u8), &form.mib().to_string());
    }
    run_with(&readers_part(lab).with("SOURCES", sources), "readers::write", |wish| {
        let form = wish.strip_prefix("snapshot ").unwrap();
        restore(cluster, &format!("{sources}{form}"), &format!("{uuids}{form}"));
    });
}

fn readers_part(lab: &Lab) -> Inside<'_> {
    let cluster = lab.cluster(0);
    // The other cluster of these tests is not there.
    Inside::new(lab)
        .of(cluster)
        .with("B_MONITORS", &cluster.monitors)
        .with("B_KEY", &cluster.admin_key)
        .with("POOL_ID", &pool_id(cluster))
}

#[test]
fn readers_on_three_nodes_have_every_file_that_was_synced_before_the_snapshot() {
    let lab = Lab::start(LabSpec { clusters: 1, nodes: 3 });
    let (sources, uuids) = ("5a0de5aa-0000-4000-8000-00000000000", "5e57013d-0000-4000-8000-00000000000");
    restored(&lab, sources, uuids);
    println!("{}", readers_part(&lab).with("RESTORED", uuids).run("readers::refused"));
    let (meeting, said) = (meeting::Meeting::of(3), std::sync::Mutex::new(String::new()));
    std::thread::scope(|scope| {
        for node in 0..3 {
            let part = readers_part(&lab).on(node).with("RESTORED", uuids);
            let (meeting, said) = (&meeting, &said);
            scope.spawn(move || {
                let output = run_with(&part, "readers::read", |wish| drop(meeting.arrive(wish)));
                said.lock().unwrap().push_str(&output);
            });
        }
    });
    let said = said.into_inner().unwrap();
    for form in readers::FORMS {
        let replays = said.lines().filter_map(|line| line.strip_prefix(&format!("REPLAYS {form:?} ")));
        let replays: Vec<usize> = replays.map(|number| number.parse().unwrap()).collect();
        assert!(replays.len() == 3 && replays.iter().sum::<usize>() == 1, "{form:?}: {replays:?}");
        let image = format!("csi-vol-{uuids}{}", form as u8);
        let header = format!("rbd_header.{}", image_id(lab.cluster(0), &image));
        for lock in ["rbd-csi.replay", "rbd-csi.replay.client"] {
            let info =
                lab.cluster(0).rados(&["-p", "rbd", "lock", "info", &header, lock, "--format", "json"]);
            assert!(!info.contains("cookie"), "{info}");
        }
    }
}

#[test]
fn a_node_that_is_cut_off_in_a_replay_is_fenced_and_another_goes_on() {
    let lab = Lab::start(LabSpec { clusters: 1, nodes: 2 });
    let (sources, uuids) = ("5a0de5aa-0000-4000-8000-00000000000", "5e57013d-0000-4000-8000-00000000000");
    restored(&lab, sources, uuids);
    let part = |node| readers_part(&lab).on(node).with("RESTORED", uuids);
    let (first, second) = (part(0), part(1));
    let (is_cut, cut) = std::sync::mpsc::channel();
    let (lab, cluster) = (&lab, lab.cluster(0));
    std::thread::scope(|scope| {
        scope.spawn(move || {
            run_with(&first, "readers::stops_in_the_middle", |_| {
                lab.node(0).cut();
                is_cut.send(()).unwrap();
            });
        });
        cut.recv().unwrap();
        run_with(&second, "readers::takes_over", |_| {
            let listed = cluster.ceph(&["osd", "blocklist", "ls"]);
            assert!(listed.contains(&lab.node(0).ip), "{listed}");
            lab.node(0).join();
            std::thread::sleep(Duration::from_secs(70));
        });
    });
}

/// The objects of the pools `rbd` and `data` that belong to one of these image ids.
fn objects_of(cluster: &Cluster, ids: &[String]) -> Vec<String> {
    let objects = ["rbd", "data"].into_iter().flat_map(|pool| cluster.objects(pool));
    objects.filter(|object| ids.iter().any(|id| object.contains(id.as_str()))).collect()
}

/// What is left of the recorded volumes: objects, and keys of the registers.
fn left_of_recorded(cluster: &Cluster, ids: &[String]) -> Vec<String> {
    let mut left = objects_of(cluster, ids);
    let parts: Vec<&str> = PLAIN.into_iter().chain(ids.iter().map(String::as_str)).collect();
    let is_theirs = |entry: &String| parts.iter().any(|part| entry.contains(part));
    // A directory's keys have no uuid: the recorded volumes' names begin so.
    let is_named = |entry: &String| entry.contains("pvc-0a6e3c7e");
    let contents = support::pool::contents(cluster, "rbd").into_iter();
    left.extend(contents.filter(|entry| is_theirs(entry) || is_named(entry)));
    left
}

#[test]
fn volumes_of_ceph_csi_live_on_a_node_and_are_deleted_to_the_last_object() {
    let (cluster, recorded) = (lab().cluster(0), Recorded::read());
    recorded.rebuild(cluster, |name| PLAIN.iter().any(|part| name.contains(part)));
    let images = PLAIN.map(|part| recorded.handle(part).1["context"]["imageName"].as_str().unwrap());
    let ids = images.map(|image| image_id(cluster, image));
    let part = inside().with("POOL_ID", &pool_id(cluster));
    run_with(&part, "legacy::volumes_of_ceph_csi_are_used_and_deleted", |wish| match wish {
        "see the data objects" => {
            for id in &ids {
                let objects = objects_of(cluster, std::slice::from_ref(id));
                assert!(objects.iter().any(|object| object.contains("rbd_data.")), "{id}: {objects:?}");
            }
        }
        "see nothing" => {
            let until = Instant::now() + Duration::from_secs(60);
            while let left = left_of_recorded(cluster, &ids)
                && !left.is_empty()
            {
                assert!(Instant::now() < until, "left: {left:#?}");
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        other => panic!("wishes {other}"),
    });
}

/// Runs a part that wants the pool searched for the administrator's key.
fn with_a_searched_pool(test: &str) {
    let cluster = lab().cluster(0);
    run_with(&inside(), test, |wish| {
        assert_eq!(wish, "look into the pool");
        // Every object with its data, attributes and keys: journal and image metadata too.
        let export = cluster.command("rados").args(["-p", "rbd", "export", "-"]).output().unwrap();
        let holds = |text: &str| export.stdout.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(export.status.success() && holds("csi.imageid"), "the journal is among it");
        assert!(!holds(&cluster.admin_key), "the pool holds the key");
    });
}

#[test]
fn the_key_is_nowhere_in_a_volumes_life() {
    with_a_searched_pool("canary::the_key_is_nowhere");
}

#[test]
fn the_key_is_nowhere_when_the_program_rbd_maps() {
    with_a_searched_pool("canary::the_key_is_nowhere_with_the_program_rbd");
}
