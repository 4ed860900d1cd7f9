//! A node plugin's Probe and `/healthz`: they follow what this node can do, and never what
//! its Ceph does, in a real krbd node.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::{Duration, Instant};

use rbd_csi::csi::proto::{NodeGetInfoRequest, ProbeRequest};
use support::driver::{self, Driver, Site};
use support::lab::{Lab, LabSpec};
use support::page;
use tonic::{Code, Status};

const PORT: u16 = 9001;
/// What the kubelet and the sidecars give a probe, by default.
const PATIENCE: Duration = Duration::from_secs(3);

struct Plugin<'a> {
    lab: &'a Lab,
    driver: Driver,
    runtime: tokio::runtime::Runtime,
}

impl Plugin<'_> {
    fn probe(&self) -> Result<Option<bool>, Status> {
        self.runtime.block_on(async {
            let mut request = tonic::Request::new(ProbeRequest {});
            request.set_timeout(PATIENCE);
            Ok(self.driver.identity().await.probe(request).await?.into_inner().ready)
        })
    }

    fn healthz(&self) -> (u16, String) {
        page::get((self.lab.node(0).ip.as_str(), PORT), "/healthz")
    }

    /// Both say that all is well, at once.
    fn is_well(&self, at: &str) {
        let since = Instant::now();
        assert_eq!(self.probe().unwrap_or_else(|status| panic!("{at}: {status}")), Some(true), "{at}");
        assert_eq!(self.healthz(), (200, "ok\n".to_owned()), "{at}");
        assert!(since.elapsed() < PATIENCE, "{at}: {:?}", since.elapsed());
    }

    /// Both say why not.
    fn is_unwell(&self, words: &[&str]) {
        let status = self.probe().unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        let (code, text) = self.healthz();
        assert_eq!(code, 503, "{text}");
        for word in words {
            assert!(status.message().contains(word), "{word}: {status}");
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    /// Probe asks for patience, and `/healthz` says why.
    fn is_not_ready(&self, word: &str) {
        assert_eq!(self.probe().unwrap(), Some(false));
        let (code, text) = self.healthz();
        assert!(code == 503 && text.contains(word), "{code} {text}");
    }
}

#[test]
fn a_node_plugin_is_as_well_as_its_kernel_and_not_as_its_ceph() {
    let lab = Lab::start(LabSpec { clusters: 1, nodes: 1 });
    lab.enter();
    let (cluster, node) = (lab.cluster(0), lab.node(0));
    // A kernel without the module, as on a host that does not have it or does not show it.
    assert_eq!(node.shell("lsmod | grep -c ^rbd || true"), "0");
    let modules = "/lib/modules/$(uname -r)";
    node.shell(&format!("mv {modules} /tmp/modules"));

    let mut site = Site::new(&lab, cluster);
    site.flag(format!("--metricsport={PORT}"));
    let plugin = Plugin { lab: &lab, driver: site.node(node), runtime: lab.runtime() };
    plugin.is_unwell(&["has no rbd client", "modprobe rbd"]);
    // What needs no krbd is answered all the same.
    let info = plugin.runtime.block_on(async {
        plugin.driver.node().await.node_get_info(NodeGetInfoRequest {}).await.unwrap().into_inner()
    });
    assert_eq!(info.node_id, "node-1");

    // The module appears: no restart is needed.
    node.shell(&format!("mv /tmp/modules {modules}"));
    plugin.is_well("with the module");

    // Ceph does not answer, also while a call waits for it.
    let monitor = cluster.stop_monitor();
    plugin.is_well("without a monitor");
    let waiting = plugin.runtime.spawn({
        let mut request = tonic::Request::new(driver::create(&site, "pvc-waits", 1 << 30));
        request.set_timeout(Duration::from_secs(4));
        let client = plugin.runtime.block_on(plugin.driver.client());
        async move { { client }.create_volume(request).await.map(drop) }
    });
    std::thread::sleep(Duration::from_millis(500));
    plugin.is_well("while a call waits for the monitor");
    let late = plugin.runtime.block_on(waiting).unwrap().unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    drop(monitor);
    let paused = cluster.pause();
    plugin.is_well("without I/O");
    drop(paused);

    // What the operator of this node can mend counts again.
    std::fs::rename(site.path("config.json"), site.path("elsewhere")).unwrap();
    plugin.is_not_ready("config.json");
    std::fs::rename(site.path("elsewhere"), site.path("config.json")).unwrap();
    plugin.is_well("at the end");
}
