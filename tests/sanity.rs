//! csi-sanity, the official suite, against the driver in a krbd node: mount with one
//! process for both services, block with one process each.
//!
//! `make sanity` runs it (scripts/sanity builds the suite, which needs Go); hence `ignore`.
//!
//! What a reader gets wrong: a case that the suite skips is no case that passed. Each
//! skip must say that a capability is missing which the driver does not announce.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test reports and fails so"
)]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use support::driver::{CLUSTER_ID, Site};
use support::lab::{Cluster, Lab, LabSpec, Node, Running};
use support::pool;

const DRIVER: &str = env!("CARGO_BIN_EXE_rbd-csi");

/// The calls to which the suite gives a secret of its own.
const SECRETS: [&str; 11] = [
    "CreateVolumeSecret",
    "DeleteVolumeSecret",
    "ControllerValidateVolumeCapabilitiesSecret",
    "NodeStageVolumeSecret",
    "NodePublishVolumeSecret",
    "ControllerPublishVolumeSecret",
    "ControllerExpandVolumeSecret",
    "CreateSnapshotSecret",
    "DeleteSnapshotSecret",
    "ListSnapshotsSecret",
    "GetSnapshotSecret",
];

/// The cases that identity, creating, deleting, validating, staging, publishing, statistics,
/// snapshots, restores, clones and growth call for; each further capability adds to them.
const CASES: usize = 57;

/// What the suite says where the driver does not announce a capability (csi-test 5.6.0,
/// `Skip(…)`). Volumes, snapshots, clones, growth, staging, statistics and the single-node modes
/// are not among them. Lists of snapshots need a Kubernetes that keeps a key for them.
const NOT_ANNOUNCED: [&str; 17] = [
    "Controller Publish, UnpublishVolume not supported",
    "ControllerGetVolumeHealth not supported",
    "ControllerListVolumeHealth not supported",
    "ControllerModifyVolume not supported",
    "ControllerPublishVolume not supported",
    "ControllerPublishVolume.readonly field not supported",
    "ControllerUnpublishVolume not supported",
    "GetCapacity not supported",
    "GetSnapshot not supported",
    "GroupControllerService not supported",
    "ListSnapshots not supported",
    "ListVolumes not supported",
    "Modify Volume not supported",
    "Modify volume not supported",
    "NodeGetStorageHealth not supported",
    "NodeGetVolumeHealth not supported",
    "SNAPSHOT_ACCESSIBILITY_CONSTRAINTS not supported",
];

struct Bench {
    lab: Lab,
    site: Site,
    key: String,
}

impl Bench {
    fn new() -> Self {
        let lab = Lab::start(LabSpec { clusters: 1, nodes: 1 });
        lab.enter();
        let cluster = lab.cluster(0);
        // The capabilities that ceph-csi documents, and no more.
        let profile = "profile rbd";
        let key = cluster.user("sanity", &[("mon", profile), ("osd", profile), ("mgr", profile)]);
        let site = Site::new(&lab, cluster);
        Self { lab, site, key }
    }

    fn cluster(&self) -> &Cluster {
        self.lab.cluster(0)
    }

    fn node(&self) -> &Node {
        self.lab.node(0)
    }

    /// Starts the driver in the node; gives its endpoint there.
    fn driver(&self, name: &str, services: &[&str]) -> (Running, String) {
        let socket = format!("/run/{name}.sock");
        let file = |name: &str| self.site.path(name).display().to_string();
        let mut argv = vec![DRIVER.to_owned(), "--type=rbd".into(), "--v=5".into()];
        argv.extend(services.iter().map(|service| format!("--{service}=true")));
        argv.extend([
            "--nodeid=node-1".to_owned(),
            "--drivername=rbd.csi.ceph.com".to_owned(),
            format!("--endpoint=unix://{socket}"),
            "--pluginpath=/run/plugins".to_owned(),
            format!("--cluster-config={}", file("config.json")),
            format!("--cluster-mapping={}", file("cluster-mapping.json")),
            format!("--ceph-conf={}", file("ceph.conf")),
        ]);
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let mut command = self.node().command(&argv);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let driver = Running(command.spawn().unwrap());
        self.node()
            .shell(&format!("for i in $(seq 200); do [ -S {socket} ] && exit; sleep 0.1; done; exit 1"));
        (driver, format!("unix:{socket}"))
    }

    fn log(&self) -> PathBuf {
        self.site.path("driver.log")
    }

    /// Runs the suite in the node; gives how many cases passed.
    fn run(&self, node: &str, controller: &str, parameters: &[(&str, &str)], access: &str) -> usize {
        let secrets = self.write(
            "secrets.yaml",
            SECRETS.map(|call| (call, format!("{{userID: sanity, userKey: \"{}\"}}", self.key))),
        );
        let parameters = parameters.iter().map(|(name, value)| (*name, format!("\"{value}\"")));
        let parameters = self.write("parameters.yaml", parameters);
        let report = self.site.path("report.json");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/sanity");
        let argv = [
            script.to_str().unwrap(),
            "run",
            node,
            controller,
            &secrets,
            &parameters,
            access,
            &format!("--ginkgo.json-report={}", report.display()),
        ];
        let suite = std::env::var("CSI_SANITY").expect("CSI_SANITY: run this by scripts/sanity");
        let output = self.node().command_with(&[("CSI_SANITY", &suite)], &argv).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let ended = format!("{}\n{}", text, String::from_utf8_lossy(&output.stderr));
        assert!(
            output.status.success(),
            "{access}: {}\n{ended}\nthe driver's log: {}",
            output.status,
            self.tail()
        );
        let report = std::fs::read_to_string(report).unwrap();
        judge(access, &serde_json::from_str(&report).unwrap())
    }

    fn write<'a>(&self, name: &str, lines: impl IntoIterator<Item = (&'a str, String)>) -> String {
        let mut text = String::new();
        for (key, value) in lines {
            writeln!(text, "{key}: {value}").unwrap();
        }
        let path = self.site.path(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn tail(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Nothing of the suite's volumes is on the node; the key is in no log.
    fn nothing_is_left_on_the_node(&self) {
        let left = self
            .node()
            .shell("ls /sys/bus/rbd/devices 2>/dev/null; grep -E 'rbd|csi-sanity' /proc/mounts || true");
        assert_eq!(left, "", "mappings and mounts of the node");
        let log = std::fs::read_to_string(self.log()).unwrap();
        assert!(log.contains("CreateVolume"), "the log shows the calls: {log}");
        assert!(!log.contains(&self.key), "the log shows the key");
    }
}

/// Every case passed, or was skipped for a capability that is not announced.
fn judge(access: &str, report: &serde_json::Value) -> usize {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    let cases = report[0]["SpecReports"].as_array().expect("ginkgo's report");
    for case in cases.iter().filter(|case| case["LeafNodeType"] == "It") {
        let (state, name) = (case["State"].as_str().unwrap(), case["LeafNodeText"].as_str().unwrap());
        let reason = case["Failure"]["Message"].as_str().unwrap_or_default();
        *count.entry(state).or_default() += 1;
        let fine = match state {
            "passed" => true,
            "skipped" => NOT_ANNOUNCED.contains(&reason),
            "pending" => name.contains("pagination"),
            _ => false,
        };
        if !fine {
            wrong.push(format!("{state}: {name}: {reason}"));
        }
    }
    println!("csi-sanity {access}: {count:?}");
    assert!(wrong.is_empty(), "{access}:\n{}", wrong.join("\n"));
    count["passed"]
}

/// Waits until the pools hold no object of any volume in any namespace: purges go on after
/// the answer.
fn wait_until_purged(cluster: &Cluster, pools: &[&str]) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let objects = pools.iter().flat_map(|pool| cluster.objects(pool));
        let of_volumes = ["rbd_data.", "rbd_header.", "rbd_id.", "rbd_object_map.", "csi.volume."];
        let left: Vec<String> = objects
            .filter(|object| {
                of_volumes.iter().any(|prefix| object.rsplit('/').next().unwrap().starts_with(prefix))
            })
            .collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "left in {pools:?}: {left:#?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
#[ignore = "needs csi-sanity: make sanity"]
fn mounted_volumes_of_one_process() {
    let bench = Bench::new();
    let (_driver, endpoint) = bench.driver("csi", &["controllerserver", "nodeserver"]);
    let parameters = [
        ("clusterID", CLUSTER_ID),
        ("pool", "rbd"),
        ("imageFeatures", "layering,exclusive-lock,object-map,fast-diff,deep-flatten"),
    ];
    let passed = bench.run(&endpoint, &endpoint, &parameters, "mount");
    assert!(passed >= CASES, "the suite ran only {passed} cases");
    bench.nothing_is_left_on_the_node();
    pool::wait_until_empty(bench.cluster(), "rbd", Duration::from_secs(60));
}

#[test]
#[ignore = "needs csi-sanity: make sanity"]
fn raw_devices_of_two_processes_in_a_namespace_with_a_data_pool() {
    let bench = Bench::new();
    let cluster = bench.cluster();
    cluster.ceph(&["osd", "pool", "create", "data", "8"]);
    cluster.ceph(&["osd", "pool", "application", "enable", "data", "rbd"]);
    cluster.rbd(&["namespace", "create", "rbd/tenant"]);
    bench.site.configure(&cluster.monitors, "tenant");
    let (_controller, controller) = bench.driver("controller", &["controllerserver"]);
    let (_node, node) = bench.driver("node", &["nodeserver"]);
    let parameters = [("clusterID", CLUSTER_ID), ("pool", "rbd"), ("dataPool", "data")];
    let passed = bench.run(&node, &controller, &parameters, "block");
    assert!(passed >= CASES, "the suite ran only {passed} cases");
    bench.nothing_is_left_on_the_node();
    wait_until_purged(cluster, &["rbd", "data"]);
}

fn report(state: &str, message: &str) -> serde_json::Value {
    let case = serde_json::json!({
        "LeafNodeType": "It", "LeafNodeText": "should work", "State": state, "Failure": {"Message": message}
    });
    let passed = serde_json::json!({"LeafNodeType": "It", "LeafNodeText": "runs", "State": "passed"});
    serde_json::json!([{"SpecReports": [{"LeafNodeType": "BeforeSuite", "State": "passed"}, passed, case]}])
}

#[test]
fn a_case_is_skipped_only_for_what_is_not_announced() {
    assert_eq!(judge("test", &report("skipped", "ListVolumes not supported")), 1);
    for (state, message) in [
        ("skipped", "CreateVolume not supported"),
        ("skipped", "Service does not have single node multi writer capability"),
        ("skipped", ""),
        ("failed", "ListVolumes not supported"),
        ("timedout", ""),
        ("pending", ""),
    ] {
        let judged = std::panic::catch_unwind(|| judge("test", &report(state, message)));
        assert!(judged.is_err(), "{state}: {message}");
    }
}
