//! ListSnapshots and GetSnapshot: by handle, by volume, and page by page.
//!
//! The snapshots here are laid out as ceph-csi does it: an image with an RBD snapshot of its own
//! name, and two keys of the journal. That they are no clones makes no difference to a list.

use std::collections::BTreeMap;
use std::time::Duration;

use rbd_csi::ceph::WriteOp;
use rbd_csi::csi::proto;
use serde_json::Value;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::support::bench::Bench;
use crate::support::driver::{self, Driver};
use crate::support::fixture::Recorded;
use crate::support::ops;

const DIRECTORY: &str = "csi.snaps.default";
const MIB: i64 = 1 << 20;

type Page = Result<(Vec<proto::Snapshot>, String), Status>;

#[derive(Default)]
struct Asked<'a> {
    id: &'a str,
    source: &'a str,
    most: i32,
    token: &'a str,
}

fn list(bench: &Bench, driver: &Driver, asked: &Asked<'_>) -> Page {
    let request = proto::ListSnapshotsRequest {
        max_entries: asked.most,
        starting_token: asked.token.to_owned(),
        source_volume_id: asked.source.to_owned(),
        snapshot_id: asked.id.to_owned(),
        secrets: bench.site.secrets.clone(),
    };
    let answer = bench.wait(async { driver.client().await.list_snapshots(request).await })?.into_inner();
    let entries = answer.entries.into_iter().map(|entry| entry.snapshot.unwrap()).collect();
    Ok((entries, answer.next_token))
}

fn get(bench: &Bench, driver: &Driver, id: &str) -> Result<proto::Snapshot, Status> {
    let request =
        proto::GetSnapshotRequest { snapshot_id: id.to_owned(), secrets: bench.site.secrets.clone() };
    let answer = bench.wait(async { driver.client().await.get_snapshot(request).await })?;
    Ok(answer.into_inner().snapshot.unwrap())
}

/// All pages, each of at most so many; how many pages there were.
fn walk(bench: &Bench, driver: &Driver, source: &str, most: i32) -> (Vec<proto::Snapshot>, usize) {
    let (mut all, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let (found, next) =
            list(bench, driver, &Asked { source, most, token: &token, ..Asked::default() }).unwrap();
        assert!(most == 0 || found.len() <= usize::try_from(most).unwrap());
        all.extend(found);
        pages += 1;
        if next.is_empty() {
            return (all, pages);
        }
        assert_ne!(next, token, "each page goes on");
        token = next;
    }
}

fn sorted(snapshots: &[proto::Snapshot]) -> Vec<String> {
    let mut ids: Vec<_> = snapshots.iter().map(|snapshot| snapshot.snapshot_id.clone()).collect();
    ids.sort();
    ids
}

/// A snapshot of that image in the journal; its uuid.
fn snapshot(bench: &Bench, name: &str, source: &str, mib: i64) -> String {
    let uuid = Uuid::new_v4().to_string();
    let image = format!("csi-snap-{uuid}");
    let own = format!("{image}@{image}");
    bench.cluster().rbd(&["create", &image, "--size", &mib.to_string()]);
    bench.cluster().rbd(&["snap", "create", "--no-progress", &own]);
    let info: Value =
        serde_json::from_str(&bench.cluster().rbd(&["info", &image, "--format", "json"])).unwrap();
    enter(bench, name, &uuid);
    let entry = [
        ("csi.snapname", name),
        ("csi.imagename", &image),
        ("csi.source", source),
        ("csi.imageid", info["id"].as_str().unwrap()),
    ];
    bench.set_keys(&format!("csi.snap.{uuid}"), &entry);
    uuid
}

fn enter(bench: &Bench, name: &str, uuid: &str) {
    bench.set_keys(DIRECTORY, &[(&format!("csi.snap.{name}"), uuid)]);
}

/// Takes everything away that [`snapshot`] and [`enter`] made.
fn clean_up(bench: &Bench) {
    for image in bench.images() {
        bench.cluster().rbd(&["snap", "purge", "--no-progress", &image]);
        bench.cluster().rbd(&["rm", "--no-progress", &image]);
    }
    for object in bench.contents().into_iter().filter(|object| object.starts_with("csi.snap.")) {
        bench.wait(bench.rados.remove("clean up", &object)).unwrap();
    }
    bench.wait(bench.rados.remove_if_there("clean up", DIRECTORY)).unwrap();
    assert_eq!(bench.contents(), Vec::<String>::new());
}

#[test]
fn snapshots_are_listed_by_handle_by_volume_and_page_by_page() {
    let bench = Bench::new();
    let driver = bench.start();
    assert_eq!(list(&bench, &driver, &Asked::default()).unwrap(), (Vec::new(), String::new()));
    // The volumes are gone; their snapshots are not.
    let (one, other) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
    let image = |uuid: &str| format!("csi-vol-{uuid}");
    let mut of_one: Vec<_> =
        (0..3).map(|n| snapshot(&bench, &format!("a-{n}"), &image(&one), 8 + n)).collect();
    let with_prefix = snapshot(&bench, "b-0", &format!("other-prefix-{other}"), 64);
    // Not complete: without an image, without its id, without its own snapshot, without an entry.
    let reserved = Uuid::new_v4().to_string();
    enter(&bench, "a-1-reserved", &reserved);
    bench.set_keys(
        &format!("csi.snap.{reserved}"),
        &[("csi.snapname", "a-1-reserved"), ("csi.source", &image(&one))],
    );
    let going = snapshot(&bench, "a-1-going", &image(&one), 8);
    bench.cluster().rbd(&["snap", "purge", "--no-progress", &format!("csi-snap-{going}")]);
    enter(&bench, "a-2-lost", &Uuid::new_v4().to_string());
    bench.set_keys(DIRECTORY, &[("rbd-csi.intent.c", &reserved)]);

    let handles = |uuids: &[String]| {
        let mut handles: Vec<_> = uuids.iter().map(|uuid| bench.handle(uuid)).collect();
        handles.sort();
        handles
    };
    let (found, next) =
        list(&bench, &driver, &Asked { source: &bench.handle(&one), ..Asked::default() }).unwrap();
    assert_eq!((sorted(&found), next.as_str()), (handles(&of_one), ""));
    let sizes: Vec<_> = found.iter().map(|snapshot| snapshot.size_bytes).collect();
    assert_eq!(sizes, [8 * MIB, 9 * MIB, 10 * MIB], "in the order of the names");
    assert!(found.iter().all(|found| found.source_volume_id == bench.handle(&one) && found.ready_to_use));
    let (found, _) =
        list(&bench, &driver, &Asked { source: &bench.handle(&other), ..Asked::default() }).unwrap();
    assert_eq!(sorted(&found), handles(std::slice::from_ref(&with_prefix)));
    assert_eq!(found[0].source_volume_id, bench.handle(&other));

    of_one.push(with_prefix);
    let all = handles(&of_one);
    for most in [0, 1, 2, 3, 4, 5, 100] {
        let (found, pages) = walk(&bench, &driver, "", most);
        assert_eq!(sorted(&found), all, "pages of {most}");
        assert!(most == 0 || pages <= 8, "{pages} pages of {most}");
    }
    // A page is full as long as there is enough to fill it with.
    let (found, next) = list(&bench, &driver, &Asked { most: 3, ..Asked::default() }).unwrap();
    assert!(found.len() == 3 && !next.is_empty());

    let id = bench.handle(&of_one[0]);
    let (found, _) = list(&bench, &driver, &Asked { id: &id, ..Asked::default() }).unwrap();
    assert_eq!(found, [get(&bench, &driver, &id).unwrap()]);
    assert_eq!(get(&bench, &driver, &id).unwrap(), found[0], "the same in each answer");
    let image = format!("csi-snap-{}", of_one[0]);
    let header = bench.wait(bench.rados.image_id(&image)).unwrap().unwrap();
    let header = bench.wait(bench.rados.image_header(&header, &[])).unwrap().unwrap();
    let created = found[0].creation_time.unwrap();
    let seconds = Duration::new(created.seconds.try_into().unwrap(), created.nanos.try_into().unwrap());
    assert_eq!(seconds, header.snapshots[0].created);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!(now - seconds < Duration::from_secs(600), "{created:?}");
    let elsewhere = Asked { id: &id, source: &bench.handle(&other), ..Asked::default() };
    assert_eq!(list(&bench, &driver, &elsewhere).unwrap().0, []);
    bench
        .wait(bench.rados.write("undo", DIRECTORY, WriteOp::new().omap_remove(["rbd-csi.intent.c"])))
        .unwrap();
    clean_up(&bench);
}

#[test]
fn what_is_not_there_is_no_error_and_what_cannot_be_known_is_one() {
    let mut bench = Bench::new();
    let driver = bench.start();
    let uuid = snapshot(&bench, "only", &format!("csi-vol-{}", Uuid::nil()), 8);
    let id = bench.handle(&uuid);
    let pool = bench.nothing().replace(&format!("{:016x}", bench.rados.id()), "00000000000003e7");
    for none in ["fake-snapshot-id", &bench.nothing(), &pool] {
        assert_eq!(list(&bench, &driver, &Asked { id: none, ..Asked::default() }).unwrap().0, [], "{none}");
        assert_eq!(get(&bench, &driver, none).unwrap_err().code(), Code::NotFound, "{none}");
        // The last has the uuid of the source of the only snapshot, in another pool.
        let found = list(&bench, &driver, &Asked { source: none, ..Asked::default() }).unwrap().0;
        assert_eq!(found.len(), usize::from(none == bench.nothing()), "{none}");
    }
    let code = |asked: &Asked<'_>| list(&bench, &driver, asked).unwrap_err().code();
    let unknown = id.replace(driver::CLUSTER_ID, "lab-clusteR");
    assert_eq!(code(&Asked { id: &unknown, ..Asked::default() }), Code::FailedPrecondition);
    assert_eq!(code(&Asked { source: &unknown, ..Asked::default() }), Code::FailedPrecondition);
    assert_eq!(code(&Asked { most: -1, ..Asked::default() }), Code::InvalidArgument);
    for token in ["none-existing-token", "1/2", "1/99/x"] {
        assert_eq!(code(&Asked { token, ..Asked::default() }), Code::Aborted, "{token}");
    }
    let token = format!("999/{}/{}a", driver::CLUSTER_ID.len(), driver::CLUSTER_ID);
    assert_eq!(code(&Asked { source: &bench.nothing(), token: &token, ..Asked::default() }), Code::Aborted);

    // Without a key, with a wrong one, and of a cluster that does not answer.
    let secrets = std::mem::take(&mut bench.site.secrets);
    for asked in [Asked::default(), Asked { id: &id, ..Asked::default() }] {
        let status = list(&bench, &driver, &asked).unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains(driver::CLUSTER_ID), "{status}");
    }
    bench.site.secrets = secrets;
    bench.site.ceph_conf("rados_osd_op_timeout = 2\nrados_mon_op_timeout = 2\nclient_mount_timeout = 3");
    let driver = bench.start();
    list(&bench, &driver, &Asked::default()).unwrap();
    let pause = bench.cluster().pause();
    for asked in
        [Asked::default(), Asked { id: &id, ..Asked::default() }, Asked { source: &id, ..Asked::default() }]
    {
        let status = list(&bench, &driver, &asked).unwrap_err();
        assert!([Code::DeadlineExceeded, Code::Unavailable].contains(&status.code()), "{status}");
    }
    drop(pause);
    let until = std::time::Instant::now() + crate::support::bench::SOON;
    while list(&bench, &driver, &Asked::default()).is_err() {
        assert!(std::time::Instant::now() < until, "it does not recover");
    }
    assert_eq!(list(&bench, &driver, &Asked { id: &id, ..Asked::default() }).unwrap().0.len(), 1);
    clean_up(&bench);
}

#[test]
fn every_pool_that_the_user_may_read_is_listed() {
    let mut bench = Bench::new();
    let cluster = bench.cluster();
    for pool in ["listed", "hidden"] {
        crate::support::pool::make(cluster, pool);
        cluster.rados(&["-p", pool, "setomapval", DIRECTORY, "csi.snap.elsewhere", &Uuid::nil().to_string()]);
    }
    let here = snapshot(&bench, "here", "csi-vol-x", 8);
    let image = format!("csi-snap-{}", Uuid::nil());
    let own = format!("listed/{image}@{image}");
    cluster.rbd(&["create", &format!("listed/{image}"), "--size", "16"]);
    cluster.rbd(&["snap", "create", "--no-progress", &own]);
    let info: Value =
        serde_json::from_str(&cluster.rbd(&["info", &format!("listed/{image}"), "--format", "json"]))
            .unwrap();
    for (key, value) in
        [("csi.imageid", info["id"].as_str().unwrap()), ("csi.imagename", &image), ("csi.source", "x")]
    {
        cluster.rados(&["-p", "listed", "setomapval", &format!("csi.snap.{}", Uuid::nil()), key, value]);
    }
    let osd = "profile rbd pool=rbd, profile rbd pool=listed";
    let key = cluster.user("lister", &[("mon", "profile rbd"), ("osd", osd)]);
    bench.site.secrets = BTreeMap::from([("userID".into(), "lister".into()), ("userKey".into(), key)]);
    let driver = bench.start();
    for most in [0, 1] {
        let (found, _) = walk(&bench, &driver, "", most);
        let mut sizes: Vec<_> = found.iter().map(|found| found.size_bytes).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [8 * MIB, 16 * MIB]);
        assert!(found.iter().any(|found| found.snapshot_id == bench.handle(&here)));
        assert!(found.iter().all(|found| get(&bench, &driver, &found.snapshot_id).is_ok()));
    }
    for pool in ["listed", "hidden"] {
        crate::support::pool::remove(cluster, pool);
    }
    clean_up(&bench);
}

#[test]
fn a_page_looks_at_a_bounded_number_of_names() {
    let bench = Bench::new();
    ops::count(&bench.site);
    let driver = bench.start();
    let names: Vec<_> = (0..2500).map(|n| format!("csi.snap.lost-{n:05}")).collect();
    let lost = Uuid::new_v4().to_string();
    let keys: Vec<_> = names.iter().map(|name| (name.as_str(), lost.as_str())).collect();
    bench.set_keys(DIRECTORY, &keys);
    let last = snapshot(&bench, "the-last", &format!("csi-vol-{}", Uuid::nil()), 8);
    list(&bench, &driver, &Asked { id: &bench.nothing(), ..Asked::default() }).unwrap();
    for source in ["", &bench.nothing()] {
        let before = ops::counted(&bench.site, &driver);
        let (found, next) = list(&bench, &driver, &Asked { source, ..Asked::default() }).unwrap();
        let took = ops::counted(&bench.site, &driver) - before;
        assert!(found.is_empty() && !next.is_empty() && took <= 1024 + 20, "{took} operations");
        let (found, pages) = walk(&bench, &driver, source, 0);
        assert_eq!((sorted(&found), pages), (vec![bench.handle(&last)], 3));
    }
    // One by its handle costs two, however many there are.
    let before = ops::counted(&bench.site, &driver);
    get(&bench, &driver, &bench.handle(&last)).unwrap();
    assert_eq!(ops::counted(&bench.site, &driver) - before, 2);
    clean_up(&bench);
}

#[test]
fn what_ceph_csi_made_is_listed() {
    let bench = Bench::new();
    let recorded = Recorded::read();
    recorded.rebuild(bench.cluster(), |_| true);
    let driver = bench.start();
    let (handle, about) = recorded.handle("884eed67");
    let id = bench.handle(&handle[handle.len() - 36..]);
    let found = get(&bench, &driver, &id).unwrap();
    println!("{about}: {found:?}");
    let source = &bench.keys(&format!("csi.snap.{}", &id[id.len() - 36..]))["csi.source"];
    assert_eq!(found.source_volume_id, bench.handle(&source[source.len() - 36..]));
    let (all, _) = walk(&bench, &driver, "", 0);
    assert!(all.contains(&found), "{all:?}");
    let (of_source, _) = walk(&bench, &driver, &found.source_volume_id, 1);
    assert_eq!(of_source, [found]);
}
