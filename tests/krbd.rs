//! The kernel's RBD client as the driver uses it, on a real kernel and a real Ceph:
//! `host::krbd` and `host::rbd_program`, the leaves. What is decided above them
//! (taking over, waiting, explaining) is shown by tests/mapping.rs.
//!
//! What a reader gets wrong: the kernel part must run inside the lab's node. Each test
//! here starts this same executable there, with the name of one test of `inside`; those
//! are ignored elsewhere.

// A test says by a panic that the lab is not as it must be.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use support::inside::{Inside, KEY};
use support::lab::{Lab, LabSpec};

fn lab() -> &'static Lab {
    Lab::shared(LabSpec { clusters: 1, nodes: 1 })
}

fn image(name: &str) {
    lab().cluster(0).rbd(&["create", "--size", "64M", "--image-feature", "layering,exclusive-lock", name]);
}

/// Runs one test of `inside` in the node; it must succeed.
fn inside(test: &str) {
    Inside::new(lab()).of(lab().cluster(0)).run(&format!("inside::{test}"));
}

#[test]
fn maps_and_unmaps_in_process() {
    image("plain");
    inside("maps_and_unmaps_in_process");
}

#[test]
fn what_is_read_of_a_device_is_all_of_that_device() {
    image("before");
    image("behind");
    inside("what_is_read_of_a_device_is_all_of_that_device");
}

#[test]
fn maps_and_unmaps_by_the_program() {
    image("by-program");
    inside("maps_and_unmaps_by_the_program");
}

#[test]
fn maps_in_a_namespace() {
    let cluster = lab().cluster(0);
    cluster.rbd(&["namespace", "create", "rbd/tenant"]);
    image("rbd/tenant/one");
    image("rbd/one");
    inside("maps_in_a_namespace");
}

#[test]
fn the_kernel_answers_with_these_numbers() {
    image("answers");
    let features = "layering,exclusive-lock,journaling";
    lab().cluster(0).rbd(&["create", "--size", "8M", "--image-feature", features, "journaled"]);
    inside("the_kernel_answers_with_these_numbers");
}

#[test]
fn who_holds_a_device() {
    image("held");
    inside("who_holds_a_device");
}

#[test]
fn a_thread_maps_in_another_network_namespace() {
    image("elsewhere");
    inside("a_thread_maps_in_another_network_namespace");
}

#[test]
fn the_key_is_nowhere_to_be_read() {
    image("canary");
    inside("the_key_is_nowhere_to_be_read");
    let node = lab().node(0);
    let log = node.shell("dmesg");
    assert!(!log.contains(&lab().cluster(0).admin_key), "the key is in the kernel's log");
}

#[test]
fn the_module_is_loaded_when_it_is_absent() {
    // A node of its own: here nobody has mapped anything yet.
    let lab = Lab::start(LabSpec { clusters: 0, nodes: 1 });
    Inside::new(&lab).run("inside::the_module_is_loaded_when_it_is_absent");
}

mod inside {
    use std::path::Path;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use rbd_csi::host::krbd::{self, MapRequest, Mapping};
    use rbd_csi::host::{Result, holders, module, rbd_program};
    use rbd_csi::secret::Secret;

    use super::KEY;
    use super::support::inside::variable;
    use super::support::lonely::Lonely;
    use super::support::spy::{self, Spy};

    fn request(image: &str) -> MapRequest {
        module::ensure_loaded().unwrap();
        MapRequest {
            monitors: vec![variable("LAB_MONITORS")],
            user: "admin".into(),
            key: Secret::new(variable(KEY)),
            fsid: variable("LAB_FSID"),
            pool: "rbd".into(),
            namespace: String::new(),
            image: image.into(),
            options: Vec::new(),
            read_only: false,
            netns: None,
        }
    }

    /// As the driver does: on a thread that ends afterwards.
    fn map(request: &MapRequest) -> Result<Mapping> {
        std::thread::scope(|scope| scope.spawn(|| krbd::map(request)).join().unwrap())
    }

    fn of_image(request: &MapRequest) -> Vec<Mapping> {
        krbd::find(&request.pool, &request.namespace, &request.image).unwrap()
    }

    fn size(device: &Path) -> String {
        let output = Command::new("blockdev").arg("--getsize64").arg(device).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn maps_and_unmaps_in_process() {
        let request = request("plain");
        let mapping = map(&request).unwrap();
        assert_eq!(size(&mapping.device()), (64 << 20).to_string());
        assert_eq!(mapping.size, 64 << 20);
        assert_eq!(mapping.cluster_fsid, variable("LAB_FSID"));
        assert!(mapping.client_id > 0 && mapping.client_address.contains(":0/"), "{mapping:?}");
        assert!(!mapping.read_only && mapping.snapshot.is_none());
        assert_eq!(of_image(&request), std::slice::from_ref(&mapping));
        krbd::unmap(&mapping, false).unwrap();
        assert_eq!(of_image(&request), []);
        // Gone already is no error.
        krbd::unmap(&mapping, false).unwrap();

        let reader = MapRequest { read_only: true, options: vec!["rw".into()], ..request };
        let mapping = map(&reader).unwrap();
        assert!(mapping.read_only, "the driver's ro wins over an option of the user");
        krbd::unmap(&mapping, false).unwrap();
    }

    /// The kernel gives a number that is free to the next image.
    #[test]
    #[ignore = "runs inside a node"]
    fn what_is_read_of_a_device_is_all_of_that_device() {
        let before = map(&request("before")).unwrap();
        let entry = krbd::Entry::open(before.number).unwrap().unwrap();
        assert_eq!(entry.mapping().unwrap(), Some(before.clone()));
        krbd::unmap(&before, false).unwrap();
        let behind = map(&request("behind")).unwrap();
        assert_eq!(behind.number, before.number);
        assert_eq!(entry.mapping().unwrap(), None);
        assert!(krbd::mappings().unwrap().contains(&behind));
        krbd::unmap(&behind, false).unwrap();
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn maps_and_unmaps_by_the_program() {
        let limit = Duration::from_secs(60);
        let request = request("by-program");
        let mapping = rbd_program::map(&request, limit).unwrap();
        assert_eq!(of_image(&request), std::slice::from_ref(&mapping));
        let open = std::fs::File::open(mapping.device()).unwrap();
        assert!(rbd_program::unmap(&mapping, false, limit).unwrap_err().is(libc::EBUSY));
        drop(open);
        rbd_program::unmap(&mapping, false, limit).unwrap();
        assert_eq!(of_image(&request), []);
        rbd_program::unmap(&mapping, false, limit).unwrap();

        let missing = MapRequest { image: "missing".into(), ..request.clone() };
        let error = rbd_program::map(&missing, limit).unwrap_err();
        assert!(error.is(libc::ENOENT) && error.to_string().contains("missing"), "{error}");
        let unknown = MapRequest { options: vec!["bogus".into()], ..request.clone() };
        let error = rbd_program::map(&unknown, limit).unwrap_err();
        assert!(error.is(libc::EINVAL) && error.to_string().contains("bogus"), "{error}");
        let modern = MapRequest {
            monitors: vec![variable("LAB_MONITORS").replace(":6789", ":3300")],
            options: vec!["ms_mode=prefer-crc".into()],
            read_only: true,
            ..request
        };
        let mapping = rbd_program::map(&modern, limit).unwrap();
        assert!(mapping.read_only);
        rbd_program::unmap(&mapping, false, limit).unwrap();
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn maps_in_a_namespace() {
        let tenant = MapRequest { namespace: "tenant".into(), ..request("one") };
        for by_program in [false, true] {
            let mapping = match by_program {
                false => map(&tenant).unwrap(),
                true => rbd_program::map(&tenant, Duration::from_secs(60)).unwrap(),
            };
            assert_eq!(mapping.namespace, "tenant");
            assert_eq!(krbd::find("rbd", "", "one").unwrap(), [], "an image of the same name elsewhere");
            assert_eq!(of_image(&tenant), std::slice::from_ref(&mapping));
            krbd::unmap(&mapping, false).unwrap();
        }
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn the_kernel_answers_with_these_numbers() {
        let good = request("answers");
        let fails = |request: MapRequest| map(&request).unwrap_err().errno;
        let with = |options: &[&str]| MapRequest {
            options: options.iter().map(|&option| option.to_owned()).collect(),
            ..good.clone()
        };
        assert_eq!(fails(request("missing")), libc::ENOENT);
        assert_eq!(fails(MapRequest { pool: "missing".into(), ..good.clone() }), libc::ENOENT);
        assert_eq!(fails(MapRequest { namespace: "missing".into(), ..good.clone() }), libc::ENOENT);
        assert_eq!(fails(request("journaled")), libc::ENXIO);
        assert_eq!(fails(with(&["bogus"])), libc::EINVAL);
        assert_eq!(fails(with(&["queue_depth=0"])), libc::EINVAL);
        let key = Secret::new("AQBkZWFkAAAAABAAZGVhZGRlYWRkZWFkZGVhZA==".into());
        assert_eq!(fails(MapRequest { key, ..good.clone() }), libc::EACCES);
        assert_eq!(fails(MapRequest { key: Secret::new("no key".into()), ..good.clone() }), libc::EINVAL);
        let since = Instant::now();
        let unreachable =
            MapRequest { monitors: vec!["10.99.0.99:6789".into()], ..with(&["mount_timeout=3"]) };
        assert_eq!(fails(unreachable), libc::ETIMEDOUT);
        assert!(since.elapsed() < Duration::from_secs(10), "mount_timeout bounds it: {:?}", since.elapsed());
        let left = krbd::mappings().unwrap();
        let ours = ["answers", "missing", "journaled"];
        assert!(!left.iter().any(|mapping| ours.contains(&mapping.image.as_str())), "{left:?}");
        assert_eq!(krbd::supported_features().unwrap().unwrap() & 64, 0, "journaling is what lacks");
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn who_holds_a_device() {
        let mapping = map(&request("held")).unwrap();
        let device = mapping.device();
        let me = format!("pid {} (", std::process::id());
        let run = |line: &str| {
            let device = device.display().to_string();
            let status = Command::new("sh").args(["-ec", line, "sh", &device]).status().unwrap();
            assert!(status.success(), "{line}");
        };
        let found = || holders::of_device(&device).found.join("\n");

        let open = std::fs::File::open(&device).unwrap();
        assert!(krbd::unmap(&mapping, false).unwrap_err().is(libc::EBUSY));
        assert!(found().contains(&me) && found().contains("has /dev/rbd"), "{}", found());
        drop(open);

        run("mkfs.ext4 -q $1; mkdir -p /run/held; mount $1 /run/held; touch /run/held/file");
        let open = std::fs::File::open("/run/held/file").unwrap();
        assert!(found().contains(&me) && found().contains("has /run/held/file open"), "{}", found());
        assert!(found().contains("a mount at /run/held"), "{}", found());
        drop(open);

        // A copy in another mount namespace keeps it busy when this one has let go.
        let mut other = Command::new("unshare")
            .args(["-m", "--propagation", "private", "sleep", "1000"])
            .spawn()
            .unwrap();
        let theirs = format!("a mount at /run/held in the mount namespace of pid {} (sleep)", other.id());
        let until = Instant::now() + Duration::from_secs(10);
        while !std::fs::read_to_string(format!("/proc/{}/comm", other.id())).unwrap().starts_with("sleep") {
            assert!(Instant::now() < until);
            std::thread::sleep(Duration::from_millis(20));
        }
        run("umount /run/held");
        assert!(krbd::unmap(&mapping, false).unwrap_err().is(libc::EBUSY));
        assert!(found().contains(&theirs), "{}", found());
        other.kill().unwrap();
        other.wait().unwrap();

        run("modprobe loop; losetup /dev/loop7 $1");
        assert!(found().contains("loop7 on /dev/rbd"), "{}", found());
        run("losetup -d /dev/loop7; mkswap $1 >/dev/null; swapon $1");
        assert!(found().contains("swap /dev/rbd"), "{}", found());
        run("swapoff $1; modprobe dm-mod; echo \"0 8 linear $1 0\" | dmsetup create --noudevsync stacked");
        assert!(found().contains("(stacked)"), "{}", found());
        run("dmsetup remove --noudevsync stacked");
        assert_eq!(found(), "");
        krbd::unmap(&mapping, false).unwrap();
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn a_thread_maps_in_another_network_namespace() {
        // A namespace from which nothing can be reached: who maps there gets ETIMEDOUT.
        let lonely = Lonely::new();
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let request = MapRequest {
            netns: Some(lonely.path()),
            options: vec!["mount_timeout=2".into()],
            ..request("elsewhere")
        };
        assert_eq!(map(&request).unwrap_err().errno, libc::ETIMEDOUT);
        drop(lonely);
        assert_eq!(std::fs::read_link("/proc/self/ns/net").unwrap(), own, "only the thread has moved");
        let here = MapRequest { netns: Some("/proc/1/ns/net".into()), ..request };
        for by_program in [false, true] {
            let mapping = match by_program {
                false => map(&here).unwrap(),
                true => rbd_program::map(&here, Duration::from_secs(60)).unwrap(),
            };
            krbd::unmap(&mapping, false).unwrap();
        }
        let missing = MapRequest { netns: Some("/run/netns/missing".into()), ..here };
        assert_eq!(map(&missing).unwrap_err().errno, libc::ENOENT);
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn the_key_is_nowhere_to_be_read() {
        let request = request("canary");
        let key = variable(KEY);
        let watch = Spy::start(spy::arguments);
        let mapping = map(&request).unwrap();
        let info =
            std::fs::read_to_string(format!("/sys/bus/rbd/devices/{}/config_info", mapping.number)).unwrap();
        assert!(info.contains("key=client.admin") && !info.contains(&key), "{info}");
        assert!(
            !std::fs::read_to_string("/proc/keys").unwrap().contains("client.admin"),
            "the thread's key is gone"
        );
        krbd::unmap(&mapping, false).unwrap();
        let mapping = rbd_program::map(&request, Duration::from_secs(60)).unwrap();
        krbd::unmap(&mapping, false).unwrap();
        let seen = watch.stop();
        assert!(seen.iter().any(|argv| argv.contains("--keyfile")), "rbd was seen: {seen:?}");
        assert!(!seen.iter().any(|argv| argv.contains(&key)), "{seen:?}");
        assert!(!format!("{request:?}").contains(&key));
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn the_module_is_loaded_when_it_is_absent() {
        assert!(!krbd::is_loaded());
        assert_eq!(krbd::mappings().unwrap(), []);
        module::ensure_loaded().unwrap();
        assert!(krbd::is_loaded());
        module::ensure_loaded().unwrap();
    }
}
