//! `make bench`: operations of each call, rates, memory, staging with both mappers; what is
//! made of a point in time is in `points`.
//!
//! Not a test: times depend on the machine, and only ratios within one run mean
//! anything. The table goes to stdout and to docs/benchmark.md.

#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, clippy::expect_used)]

mod points;
#[path = "../support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rbd_csi::ceph::{Connection, Connections, Credentials, Features, ImageSpec, Pool};
use rbd_csi::csi::proto;
use rbd_csi::csi::proto::controller_client::ControllerClient;
use rbd_csi::secret::Secret;
use support::driver::{self, Driver, Site};
use support::lab::{Cluster, Lab, LabSpec, Node};
use support::{memory, ops, requests};
use tokio::runtime::Runtime;
use tonic::transport::Channel;

const GIB: i64 = 1 << 30;
const MANY: usize = 20_000;
const STAGING: &str = "/var/lib/kubelet/plugins/bench/globalmount";
const PODS: &str = "/var/lib/kubelet/pods/bench";
const TARGET: &str = "/var/lib/kubelet/pods/bench/mount";

struct Bench {
    lab: Lab,
    site: Site,
    runtime: Runtime,
    table: String,
}

impl Bench {
    fn cluster(&self) -> &Cluster {
        self.lab.cluster(0)
    }

    fn row(&mut self, what: &str, value: &str) {
        println!("{what:<64} {value}");
        let _ = writeln!(self.table, "| {what} | {value} |");
    }

    fn section(&mut self, title: &str) {
        println!("\n{title}");
        let _ = writeln!(self.table, "\n| {title} | |\n|---|---|");
    }
}

fn main() {
    let lab = Lab::start(LabSpec { clusters: 1, nodes: 1 });
    lab.enter();
    let site = Site::new(&lab, lab.cluster(0));
    ops::count(&site);
    let runtime = lab.runtime();
    let mut bench = Bench { lab, site, runtime, table: String::new() };
    // `cargo bench --bench volumes -- memory`: only that, and nothing is written down.
    if std::env::args().any(|argument| argument == "memory") {
        return points::memory_of_callers(&mut bench);
    }
    operations(&mut bench);
    points::operations(&mut bench);
    node_operations(&mut bench);
    points::rates(&mut bench);
    bench.section("Rates per second");
    rates(&mut bench);
    staging(&mut bench);
    write_down(&bench.table);
}

fn create_one(bench: &Bench, driver: &Driver, name: &str) -> proto::Volume {
    bench.runtime.block_on(async {
        let request = driver::create(&bench.site, name, GIB);
        driver.client().await.create_volume(request).await.unwrap().into_inner().volume.unwrap()
    })
}

fn operations(bench: &mut Bench) {
    bench.section("RADOS operations of a call, counted in the driver's own client");
    let driver = bench.site.controller(&bench.lab);
    create_one(bench, &driver, "warm");
    let calls = points::client_of_calls(bench, &driver, || drop(create_one(bench, &driver, "warm")));
    let count = |_: &Bench| ops::sent_by(&calls);
    let start = count(bench);
    let volume = create_one(bench, &driver, "counted");
    let created = count(bench);
    create_one(bench, &driver, "counted");
    let replayed = count(bench);
    bench.row("CreateVolume, default features, PV/PVC metadata", &(created - start).to_string());
    bench.row("CreateVolume again", &(replayed - created).to_string());
    bench.runtime.block_on(async {
        let request = proto::ValidateVolumeCapabilitiesRequest {
            volume_id: volume.volume_id.clone(),
            volume_context: volume.volume_context.clone(),
            volume_capabilities: vec![driver::mount()],
            secrets: bench.site.secrets.clone(),
            ..Default::default()
        };
        driver.client().await.validate_volume_capabilities(request).await.unwrap();
    });
    let validated = count(bench);
    bench.row("ValidateVolumeCapabilities", &(validated - replayed).to_string());
    bench.runtime.block_on(async {
        driver.client().await.delete_volume(driver::delete(&bench.site, &volume.volume_id)).await.unwrap();
    });
    let deleted = count(bench);
    bench.row("DeleteVolume, without the purge", &(deleted - validated).to_string());
    points::wait_for_purges(bench);
}

/// The same for the node's calls, with a formatted volume.
fn node_operations(bench: &mut Bench) {
    let mut site = Site::new(&bench.lab, bench.cluster());
    // Sockets work in the node's own folders only.
    site.ceph_conf("admin_socket = /tmp/bench.$cctid.asok");
    site.flag("--map-with=krbd");
    let node = site.node(bench.lab.node(0));
    bench.lab.node(0).exec(&["mkdir", "-p", STAGING, PODS]);
    let volume = create_one(bench, &node, "node-counted");
    stage(bench, &node, &volume);
    unstage(bench, &node, &volume);
    let mut last = sent_in_node(bench.lab.node(0));
    for (what, call) in NODE_CALLS {
        call(bench, &node, &volume);
        let now = sent_in_node(bench.lab.node(0));
        bench.row(what, &(now - last).to_string());
        last = now;
    }
}

type NodeCall = fn(&Bench, &Driver, &proto::Volume);

const NODE_CALLS: [(&str, NodeCall); 5] = [
    ("NodeStageVolume of a formatted volume", |bench, node, volume| {
        stage(bench, node, volume);
    }),
    ("NodePublishVolume", publish),
    ("NodeGetVolumeStats", measure),
    ("NodeUnpublishVolume", unpublish),
    ("NodeUnstageVolume", unstage),
];

fn sent_in_node(node: &Node) -> u64 {
    let dumps =
        node.shell("for i in /tmp/bench.*.asok; do ceph --admin-daemon $i perf dump objecter op_send; done");
    let dumps = serde_json::Deserializer::from_str(&dumps).into_iter::<serde_json::Value>();
    dumps.map(|dump| dump.unwrap()["objecter"]["op_send"].as_u64().unwrap()).sum()
}

/// `work` done by so many callers; what came of each, in order, and the rate per second.
async fn by_callers<C, W, T, F>(
    callers: Vec<C>,
    work: Vec<W>,
    call: impl Fn(C, W) -> F + Clone + Send + 'static,
) -> (Vec<T>, f64)
where
    C: Clone + Send + 'static,
    W: Send + 'static,
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let count = work.len();
    let queue = Arc::new(Mutex::new(work.into_iter().enumerate()));
    let started = Instant::now();
    let tasks: Vec<_> = callers
        .into_iter()
        .map(|caller| {
            let (queue, call) = (queue.clone(), call.clone());
            tokio::spawn(async move {
                let mut done = Vec::new();
                let next = || queue.lock().unwrap().next();
                while let Some((number, work)) = next() {
                    done.push((number, call(caller.clone(), work).await));
                }
                done
            })
        })
        .collect();
    let mut done = Vec::new();
    for task in tasks {
        done.extend(task.await.unwrap());
    }
    let rate = count as f64 / started.elapsed().as_secs_f64();
    done.sort_by_key(|(number, _)| *number);
    (done.into_iter().map(|(_, result)| result).collect(), rate)
}

/// So many callers of a driver's controller, each with a connection of its own.
async fn callers_of(driver: &Driver, count: usize) -> Vec<ControllerClient<Channel>> {
    let mut callers = Vec::new();
    for _ in 0..count {
        callers.push(driver.client().await);
    }
    callers
}

/// librbd without the driver: the measure for our rates.
struct Bare {
    pool: Pool,
    connection: Connection,
    connections: Connections,
}

impl Bare {
    async fn connect(cluster: &Cluster) -> Self {
        let credentials = Credentials { user: "admin".into(), key: Secret::new(cluster.admin_key.clone()) };
        let connections = Connections::new(None);
        let connection =
            connections.get(std::slice::from_ref(&cluster.monitors), &credentials).await.unwrap();
        let pool = connection.pool("rbd", "").await.unwrap();
        Self { pool, connection, connections }
    }

    async fn close(self) {
        drop((self.pool, self.connection));
        self.connections.close(Duration::from_secs(5)).await;
    }
}

/// What both make images with.
fn specification() -> ImageSpec {
    let features = Features::parse("layering,exclusive-lock,object-map,fast-diff,deep-flatten").unwrap();
    ImageSpec { size: GIB as u64, features: Some(features), ..ImageSpec::default() }
}

fn bare_creates(bench: &mut Bench, volumes: &str) -> f64 {
    const COUNT: usize = 1000;
    let names: Vec<_> = (0..COUNT).map(|number| format!("bare-{volumes}-{number}")).collect();
    let rate = bench.runtime.block_on(async {
        let bare = Bare::connect(bench.cluster()).await;
        let create = |pool: Pool, name: String| async move {
            pool.create_image(&name, &specification()).await.unwrap();
        };
        let (_, rate) = by_callers(vec![bare.pool.clone(); 10], names, create).await;
        bare.close().await;
        rate
    });
    bench.row(&format!("bare rbd_create4, 10 threads, {volumes}"), &format!("{rate:.0}"));
    rate
}

/// `count` volumes made by so many callers; their handles and the rate.
fn create_many(
    bench: &Bench,
    driver: &Driver,
    callers: usize,
    count: usize,
    prefix: &str,
) -> (Vec<String>, f64) {
    let template = driver::create(&bench.site, "", GIB);
    let work = (0..count)
        .map(|number| proto::CreateVolumeRequest { name: format!("{prefix}-{number}"), ..template.clone() });
    let work = work.collect();
    bench
        .runtime
        .block_on(async { by_callers(callers_of(driver, callers).await, work, points::create).await })
}

fn rates(bench: &mut Bench) {
    let driver = bench.site.controller(&bench.lab);
    let idle = memory::anonymous(driver.pid());
    rates_beside_bare(bench, &driver, "few volumes");
    let busy = memory::anonymous(driver.pid());
    println!("(filling the pool up to {MANY} volumes …)");
    create_many(bench, &driver, 30, MANY - 2300, "fill");
    rates_beside_bare(bench, &driver, &format!("{MANY} volumes"));
    bench.section("Anonymous memory of the controller");
    bench.row("idle", &format!("{:.1} MB", idle as f64 / 1e6));
    bench.row("after 100 callers", &format!("{:.1} MB", busy as f64 / 1e6));
    // Its socket is the next one's.
    drop(driver);
    points::memory_of_callers(bench);
}

fn rates_beside_bare(bench: &mut Bench, driver: &Driver, volumes: &str) {
    let bare = bare_creates(bench, volumes);
    for (callers, count) in [(1, 300), (10, 1000), (100, 1000)] {
        let (_, rate) = create_many(bench, driver, callers, count, &format!("{volumes}-{callers}"));
        let of_bare = if callers == 10 { format!(", {:.2} of bare", rate / bare) } else { String::new() };
        bench.row(&format!("CreateVolume, {callers} callers, {volumes}"), &format!("{rate:.0}{of_bare}"));
    }
}

fn staging(bench: &mut Bench) {
    bench.section("NodeStageVolume of a formatted volume, in the lab's emulated node");
    let mut times = Vec::new();
    for mapper in ["krbd", "rbd"] {
        let mut site = Site::new(&bench.lab, bench.cluster());
        site.flag(format!("--map-with={mapper}"));
        let node = site.node(bench.lab.node(0));
        bench.lab.node(0).exec(&["mkdir", "-p", STAGING, PODS]);
        let idle = node_memory(bench.lab.node(0));
        let volume = create_one(bench, &node, &format!("staged-{mapper}"));
        stage(bench, &node, &volume);
        unstage(bench, &node, &volume);
        let mut best = Duration::MAX;
        for _ in 0..5 {
            best = best.min(stage(bench, &node, &volume));
            unstage(bench, &node, &volume);
        }
        bench.row(
            &format!("--map-with={mapper}, best of 5"),
            &format!("{:.0} ms", best.as_secs_f64() * 1000.0),
        );
        let used = node_memory(bench.lab.node(0));
        bench.row(&format!("anonymous memory of the node plugin, idle, {mapper}"), &idle);
        bench.row(&format!("the same after use, and its helper process, {mapper}"), &used);
        times.push(best.as_secs_f64());
    }
    bench.row("ratio", &format!("{:.2}", times[1] / times[0]));
}

fn stage(bench: &Bench, node: &Driver, volume: &proto::Volume) -> Duration {
    bench.runtime.block_on(async {
        let mut client = node.node().await;
        let request = requests::stage(&bench.site, volume, STAGING);
        let started = Instant::now();
        client.node_stage_volume(request).await.unwrap();
        started.elapsed()
    })
}

fn publish(bench: &Bench, node: &Driver, volume: &proto::Volume) {
    let request = requests::publish(volume, STAGING, TARGET);
    bench.runtime.block_on(async { node.node().await.node_publish_volume(request).await.unwrap() });
}

fn measure(bench: &Bench, node: &Driver, volume: &proto::Volume) {
    let request = proto::NodeGetVolumeStatsRequest {
        volume_id: volume.volume_id.clone(),
        volume_path: TARGET.to_owned(),
        staging_target_path: STAGING.to_owned(),
    };
    bench.runtime.block_on(async { node.node().await.node_get_volume_stats(request).await.unwrap() });
}

fn unpublish(bench: &Bench, node: &Driver, volume: &proto::Volume) {
    let request = requests::unpublish(volume, TARGET);
    bench.runtime.block_on(async { node.node().await.node_unpublish_volume(request).await.unwrap() });
}

fn unstage(bench: &Bench, node: &Driver, volume: &proto::Volume) {
    let request = requests::unstage(volume, STAGING);
    bench.runtime.block_on(async { node.node().await.node_unstage_volume(request).await.unwrap() });
}

/// Of each process of the plugin's in the node: the driver, and its helper once it runs.
fn node_memory(node: &Node) -> String {
    let lines = node.shell(
        "for i in $(pidof rbd-csi | tr ' ' '\\n' | sort -n); do grep -h Anonymous: /proc/$i/smaps_rollup; done",
    );
    let sizes = lines.lines().map(|line| {
        let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        format!("{:.1} MB", kib * 1024.0 / 1e6)
    });
    sizes.collect::<Vec<_>>().join(", ")
}

fn write_down(table: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/benchmark.md");
    let text = format!(
        "# The last run of `make bench`\n\nOn one machine with its own Ceph (one OSD in memory); rates and times mean something \
         only as ratios within this run.\n{table}"
    );
    std::fs::write(path, text).unwrap();
    println!("\nwritten to docs/benchmark.md");
}
