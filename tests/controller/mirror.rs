//! Mirrored images: `mirrorDaemonCount` of config.json says how many rbd-mirror daemons may
//! have one open while it is deleted.
//!
//! What stands for the daemon is a client that watches what a daemon watches: the image's
//! header, and the pool's `rbd_mirroring`. librbd itself knows daemons by the second.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tonic::Code;

use crate::support::bench::Bench;
use crate::support::driver::Driver;
use crate::support::lab::Running;

const NAME: &str = "pvc-mirrored";
const SOON: Duration = Duration::from_secs(5);

/// Watches both objects until its input ends.
const DAEMON: &str = "
import rados, sys
with rados.Rados(conffile=sys.argv[1]) as cluster, cluster.open_ioctx('rbd') as pool:
    watches = [pool.watch(name, lambda *_: None) for name in ('rbd_mirroring', sys.argv[2])]
    print('watching', flush=True)
    sys.stdin.read()
    for watch in watches:
        watch.close()
";

fn daemon(bench: &Bench, image_id: &str) -> Running {
    // /usr/bin: Ceph's modules are those of the distribution's Python.
    let mut command = bench.lab.command("/usr/bin/python3");
    command.args(["-c", DAEMON]).arg(&bench.cluster().conf).arg(format!("rbd_header.{image_id}"));
    let mut running = Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut said = String::new();
    BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said.trim(), "watching");
    running
}

/// Ends daemons in good order: whoever notifies a dead one waits 10 s for its answer.
fn let_go(daemons: [Running; 2]) {
    for mut daemon in daemons {
        drop(daemon.0.stdin.take());
        assert!(daemon.0.wait().unwrap().success());
    }
}

/// A volume, mirrored, with two daemons that have its image open.
fn mirrored(bench: &Bench, driver: &Driver) -> (String, [Running; 2]) {
    let volume = bench.send(driver, bench.request(NAME, &[])).unwrap();
    let image = &volume.volume_context["imageName"];
    bench.cluster().rbd(&["feature", "enable", image, "journaling"]);
    bench.cluster().rbd(&["mirror", "image", "enable", image, "journal"]);
    let info = bench.cluster().rbd(&["info", image, "--format", "json"]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    (volume.volume_id, [(); 2].map(|()| daemon(bench, info["id"].as_str().unwrap())))
}

#[test]
fn a_mirrored_volume_is_deleted_and_purged_beside_its_daemons() {
    let bench = Bench::new();
    bench.cluster().rbd(&["mirror", "pool", "enable", "rbd", "image"]);
    let monitors = &bench.cluster().monitors;
    let driver = bench.start();
    let (id, daemons) = mirrored(&bench, &driver);
    // One daemon is the default; two may be there when config.json says so.
    let before = bench.images();
    let status = bench.delete_within(&driver, &id, SOON).unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("10.99.0.1:0/"), "the watcher's address: {status}");
    assert_eq!(bench.images(), before);
    bench.site.configure_rbd(monitors, &serde_json::json!({"mirrorDaemonCount": 2}));
    bench.delete(&driver, &id).unwrap();
    wait_until_purged(&bench);
    let_go(daemons);

    // One whose deletion stopped on the way to the trash is finished by the next create of its
    // name; one that was only recorded is not, for its image is whole.
    let (id, daemons) = mirrored(&bench, &driver);
    drop(driver);
    let mut driver = bench.start();
    bench.site.arm("kill:after:journal record purge");
    bench.delete(&driver, &id).unwrap_err();
    assert!(driver.was_killed(SOON));
    bench.site.arm("");
    let driver = bench.start();
    let status = bench.create(&driver, NAME).unwrap_err();
    assert_eq!(status.code(), Code::Aborted, "{status}");
    bench.delete(&driver, &id).unwrap();
    let new = bench.create(&driver, NAME).unwrap();
    assert_ne!(new, id);
    bench.delete(&driver, &new).unwrap();
    wait_until_purged(&bench);
    let_go(daemons);
    bench.cluster().rbd(&["mirror", "pool", "disable", "rbd"]);
    bench.wait(bench.rados.remove_if_there("clean up", "rbd_mirroring")).unwrap();
    bench.wait_until_empty("at the end");
}

/// The daemons watch still; no image, no object of one, and no record is left.
fn wait_until_purged(bench: &Bench) {
    let until = Instant::now() + crate::support::bench::SOON;
    loop {
        let mut left = bench.contents();
        left.retain(|entry| !entry.starts_with("rbd_mirror"));
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "{left:#?}\n{}", bench.site.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}
