//! Snapshots, restored volumes, clones and growth: operations of each call, rates beside
//! librbd alone doing the same, many at once, and memory.
//!
//! What a reader gets wrong: librbd alone makes the same images and snapshots as the driver
//! and ceph-csi do, of volumes that the driver has made; but it keeps no journal, writes no
//! metadata and looks at nothing before. Nobody else has the volumes open.

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rbd_csi::ceph::{Image, ImageId, OpenMode, Pool};
use rbd_csi::csi::proto;
use rbd_csi::csi::proto::controller_client::ControllerClient;
use tonic::transport::Channel;

use super::support::driver::{self, Driver};
use super::support::snapshots::{self, Of, image_of};
use super::support::{memory, ops};
use super::{Bare, Bench, GIB, by_callers, callers_of, create_many, create_one, specification};

type Client = ControllerClient<Channel>;

/// How many volumes with how many callers.
const ROUNDS: [(usize, usize); 2] = [(1, 20), (10, 100)];

/// CreateVolume; the volume's handle.
pub async fn create(mut client: Client, request: proto::CreateVolumeRequest) -> String {
    client.create_volume(request).await.unwrap().into_inner().volume.unwrap().volume_id
}

async fn snapshot(mut client: Client, request: proto::CreateSnapshotRequest) -> String {
    client.create_snapshot(request).await.unwrap().into_inner().snapshot.unwrap().snapshot_id
}

async fn grow(mut client: Client, request: proto::ControllerExpandVolumeRequest) {
    client.controller_expand_volume(request).await.unwrap();
}

async fn delete(mut client: Client, request: proto::DeleteVolumeRequest) {
    client.delete_volume(request).await.unwrap();
}

async fn delete_snapshot(mut client: Client, request: proto::DeleteSnapshotRequest) {
    client.delete_snapshot(request).await.unwrap();
}

fn create_of(bench: &Bench, name: &str, of: Of<'_>) -> proto::CreateVolumeRequest {
    let mut request = driver::create(&bench.site, name, GIB);
    request.volume_content_source = Some(of.content());
    request
}

/// The client that serves a driver's calls: the one that works when a call that is over is made
/// again. Purges and what else is done in the background have another.
pub fn client_of_calls(bench: &Bench, driver: &Driver, again: impl Fn()) -> Vec<PathBuf> {
    // What the first call of a driver sets going beside it.
    std::thread::sleep(Duration::from_millis(500));
    let mut clients = ops::clients(&bench.site.path(""), driver.pid());
    let sent = |client: &PathBuf| ops::sent_by(std::slice::from_ref(client));
    let before: Vec<_> = clients.iter().map(sent).collect();
    again();
    let mut before = before.into_iter();
    clients.retain(|client| before.next() != Some(sent(client)));
    assert_eq!(clients.len(), 1, "one client serves a driver's calls: {clients:?}");
    clients
}

/// What each call costs in the driver's own client.
pub fn operations(bench: &mut Bench) {
    let driver = bench.site.controller(&bench.lab);
    let source = create_one(bench, &driver, "source").volume_id;
    let clients = client_of_calls(bench, &driver, || drop(create_one(bench, &driver, "source")));
    let mut last = ops::sent_by(&clients);
    let mut row = |bench: &mut Bench, what: &str| {
        let now = ops::sent_by(&clients);
        bench.row(what, &(now - last).to_string());
        last = now;
    };
    let client = || driver.client();
    let taken = snapshots::request(&bench.site, "counted", &source);
    let id = bench.runtime.block_on(async { snapshot(client().await, taken.clone()).await });
    row(bench, "CreateSnapshot, its source in use by nobody");
    bench.runtime.block_on(async { snapshot(client().await, taken).await });
    row(bench, "CreateSnapshot again");
    let mut copies = Vec::new();
    for (what, of) in [("a snapshot", Of::Snapshot(&id)), ("a volume", Of::Volume(&source))] {
        let made = create_of(bench, &format!("counted of {what}"), of);
        copies.push(bench.runtime.block_on(async { create(client().await, made.clone()).await }));
        row(bench, &format!("CreateVolume from {what}"));
        bench.runtime.block_on(async { create(client().await, made).await });
        row(bench, &format!("CreateVolume from {what} again"));
    }
    let grown = driver::grow(&bench.site, &source, 2 * GIB);
    for what in ["ControllerExpandVolume, in use by nobody", "ControllerExpandVolume again"] {
        bench.runtime.block_on(async { grow(client().await, grown.clone()).await });
        row(bench, what);
    }
    let gone = snapshots::delete(&bench.site, &id);
    for what in ["DeleteSnapshot, without the purge", "DeleteSnapshot again"] {
        bench.runtime.block_on(async { delete_snapshot(client().await, gone.clone()).await });
        row(bench, what);
    }
    for (what, id) in ["a snapshot", "a volume"].into_iter().zip(copies) {
        let gone = driver::delete(&bench.site, &id);
        bench.runtime.block_on(async { delete(client().await, gone).await });
        row(bench, &format!("DeleteVolume of one from {what}, without the purge"));
    }
    wait_for_purges(bench);
}

/// What librbd alone does for a snapshot in ceph-csi's layout: a snapshot of the source, a clone of
/// it, the snapshot into the trash, and a snapshot of the clone.
async fn bare_point(pool: &Pool, source: &str, names: [&str; 2]) {
    let [name, own] = names;
    let image = open(pool, source).await;
    image.create_snapshot(name).await.unwrap();
    pool.clone_image(source, name, pool, name, &specification()).await.unwrap();
    image.remove_snapshot(name).await.unwrap();
    image.close().await.unwrap();
    let clone = open(pool, name).await;
    clone.create_snapshot(own).await.unwrap();
    clone.close().await.unwrap();
}

async fn open(pool: &Pool, name: &str) -> Image {
    let id: ImageId = pool.image_id(name).await.unwrap().unwrap();
    pool.open_image(&id, OpenMode::ReadWrite).await.unwrap()
}

/// The rates of the four, in the order of [`WHAT`].
type Rates = [f64; 4];

const WHAT: [(&str, &str); 4] = [
    ("CreateSnapshot", "rbd_snap_create, rbd_clone3, rbd_snap_remove, rbd_snap_create"),
    ("CreateVolume from a snapshot", "rbd_clone3"),
    ("CreateVolume from a volume", "as for a snapshot, and rbd_clone3"),
    ("ControllerExpandVolume", "rbd_resize2"),
];

async fn bare_rates(pool: &Pool, threads: usize, sources: &[String]) -> Rates {
    let callers = || vec![pool.clone(); threads];
    let sources: Vec<_> = sources.iter().map(|id| image_of(id)).collect();
    let point = |pool: Pool, source: String| async move {
        let name = format!("{source}-snap");
        bare_point(&pool, &source, [&name, &name]).await;
        name
    };
    let (taken, snapshots) = by_callers(callers(), sources.clone(), point).await;
    let restore = |pool: Pool, name: String| async move {
        let restored = format!("{name}-restored");
        pool.clone_image(&name, &name, &pool, &restored, &specification()).await.unwrap();
    };
    let (_, restores) = by_callers(callers(), taken, restore).await;
    let clone = |pool: Pool, source: String| async move {
        let (name, between) = (format!("{source}-clone"), format!("{source}-clone-temp"));
        bare_point(&pool, &source, [&between, &name]).await;
        pool.clone_image(&between, &name, &pool, &name, &specification()).await.unwrap();
    };
    let (_, clones) = by_callers(callers(), sources.clone(), clone).await;
    let grow = |pool: Pool, source: String| async move {
        let image = open(&pool, &source).await;
        image.resize(2 * GIB as u64).await.unwrap();
        image.close().await.unwrap();
    };
    let (_, growths) = by_callers(callers(), sources, grow).await;
    [snapshots, restores, clones, growths]
}

/// The same of the driver; and what it has made: snapshots, volumes.
async fn driver_rates(
    bench: &Bench,
    driver: &Driver,
    callers: usize,
    sources: &[String],
) -> (Rates, [Vec<String>; 2]) {
    let site = &bench.site;
    let clients = callers_of(driver, callers).await;
    let work = sources.iter().map(|id| snapshots::request(site, &format!("of-{id}"), id)).collect();
    let (taken, snapshots) = by_callers(clients.clone(), work, snapshot).await;
    let work = taken.iter().map(|id| create_of(bench, &format!("restored-{id}"), Of::Snapshot(id))).collect();
    let (mut made, restores) = by_callers(clients.clone(), work, create).await;
    let work = sources.iter().map(|id| create_of(bench, &format!("clone-{id}"), Of::Volume(id))).collect();
    let (cloned, clones) = by_callers(clients.clone(), work, create).await;
    made.extend(cloned);
    let work = sources.iter().map(|id| driver::grow(site, id, 2 * GIB)).collect();
    let (_, growths) = by_callers(clients, work, grow).await;
    ([snapshots, restores, clones, growths], [taken, made])
}

/// Rates beside librbd alone, and many snapshots at once.
pub fn rates(bench: &mut Bench) {
    bench.section("Rates per second, default features, images that nobody else has open");
    let driver = bench.site.controller(&bench.lab);
    for (callers, count) in ROUNDS {
        let (bare_sources, _) = create_many(bench, &driver, 10, count, &format!("bare-{callers}"));
        let (sources, _) = create_many(bench, &driver, 10, count, &format!("source-{callers}"));
        let bare = bench.runtime.block_on(async {
            let bare = Bare::connect(bench.cluster()).await;
            let rates = bare_rates(&bare.pool, callers, &bare_sources).await;
            bare.close().await;
            rates
        });
        let (ours, _) = bench.runtime.block_on(driver_rates(bench, &driver, callers, &sources));
        for (((what, calls), bare), ours) in WHAT.into_iter().zip(bare).zip(ours) {
            bench.row(&format!("bare {calls}, {callers} threads"), &format!("{bare:.1}"));
            bench.row(
                &format!("{what}, {callers} callers"),
                &format!("{ours:.1}, {:.2} of bare", ours / bare),
            );
        }
    }
    at_once(bench, &driver);
}

/// So many at once, and the median of so many alone.
const AT_ONCE: usize = 32;
const ALONE: usize = 5;

/// Snapshots of volumes at once, and of one; of the driver and of librbd alone, with the lab's
/// monitors and with Ceph's default, which collects changes for longer.
fn at_once(bench: &mut Bench, driver: &Driver) {
    bench.section(&format!("CreateSnapshot of one volume, and of {AT_ONCE} at once"));
    for (interval, whose) in [("0.05", "the lab's"), ("1", "Ceph's default")] {
        set_interval(bench, interval);
        let what = format!("paxos_propose_interval {interval} s ({whose})");
        let prefix = format!("at-once-{interval}");
        let (ids, _) = create_many(bench, driver, 10, AT_ONCE + ALONE, &prefix);
        let (bare_ids, _) = create_many(bench, driver, 10, AT_ONCE + ALONE, &format!("bare-{prefix}"));
        let work = ids.iter().map(|id| snapshots::request(&bench.site, &format!("of-{id}"), id)).collect();
        let ours = bench
            .runtime
            .block_on(async { one_and_all(callers_of(driver, AT_ONCE).await, work, snapshot).await });
        let bare = bench.runtime.block_on(async {
            let bare = Bare::connect(bench.cluster()).await;
            let point = |pool: Pool, source: String| async move {
                let name = format!("{source}-snap");
                bare_point(&pool, &source, [&name, &name]).await;
            };
            let work = bare_ids.iter().map(|id| image_of(id)).collect();
            let times = one_and_all(vec![bare.pool.clone(); AT_ONCE], work, point).await;
            bare.close().await;
            times
        });
        for (who, (one, all)) in [("", ours), ("bare librbd, ", bare)] {
            let times = format!("{:.0} and {:.0} ms, {:.1} times one", one * 1e3, all * 1e3, all / one);
            bench.row(&format!("{who}{what}"), &times);
        }
    }
    set_interval(bench, "0.05");
}

/// How long the monitors collect changes before they commit them.
fn set_interval(bench: &Bench, seconds: &str) {
    bench.cluster().ceph(&["tell", "mon.a", "config", "set", "paxos_propose_interval", seconds]);
}

/// Seconds of one alone, and of all at once.
async fn one_and_all<C, W, T, F>(
    callers: Vec<C>,
    mut work: Vec<W>,
    call: impl Fn(C, W) -> F + Clone + Send + 'static,
) -> (f64, f64)
where
    C: Clone + Send + 'static,
    W: Send + 'static,
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut alone = Vec::new();
    for work in work.split_off(AT_ONCE) {
        let started = Instant::now();
        call(callers[0].clone(), work).await;
        alone.push(started.elapsed().as_secs_f64());
    }
    alone.sort_by(f64::total_cmp);
    let started = Instant::now();
    by_callers(callers, work, call).await;
    (alone[ALONE / 2], started.elapsed().as_secs_f64())
}

/// Anonymous memory of a controller that 100 callers have had do everything, also delete it.
pub fn memory_of_callers(bench: &mut Bench) {
    const CALLERS: usize = 100;
    let driver = bench.site.controller(&bench.lab);
    let (mut volumes, _) = create_many(bench, &driver, CALLERS, 2 * CALLERS, "memory");
    let (_, [taken, made]) = bench.runtime.block_on(driver_rates(bench, &driver, CALLERS, &volumes));
    let row = |bench: &mut Bench, what: &str| {
        // What is free goes back to the kernel within 10 s.
        std::thread::sleep(Duration::from_secs(15));
        bench.row(what, &format!("{:.1} MB", memory::anonymous(driver.pid()) as f64 / 1e6));
    };
    row(
        bench,
        "after 100 callers of CreateVolume, also from snapshots and volumes, CreateSnapshot and growth",
    );
    volumes.extend(made);
    bench.runtime.block_on(async {
        let clients = callers_of(&driver, CALLERS).await;
        let work = taken.iter().map(|id| snapshots::delete(&bench.site, id)).collect();
        by_callers(clients.clone(), work, delete_snapshot).await;
        let work = volumes.iter().map(|id| driver::delete(&bench.site, id)).collect();
        by_callers(clients, work, delete).await;
    });
    wait_for_purges(bench);
    row(bench, "and after they have deleted all of it, and it was purged");
}

/// A driver that ends before would leave them to the next one, whose calls are counted.
pub fn wait_for_purges(bench: &Bench) {
    let until = Instant::now() + Duration::from_secs(300);
    while !bench.cluster().rbd(&["trash", "ls", "rbd"]).is_empty() {
        assert!(Instant::now() < until, "not everything is purged");
        std::thread::sleep(Duration::from_millis(500));
    }
}
