//! What `/etc/ceph/ceph.conf` may say and what not: its time-outs count, its monitors, user
//! and key never, and its folder stays as it is.
//!
//! What a reader gets wrong: librados has more than one option for each of these, and some
//! win over the one that a client usually sets (`mon_host_override`, `monmap`, `keyfile`).

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use tonic::Code;

use crate::support::bench::{Bench, last_lines};

const NAME: &str = "pvc-conf";
/// A well-formed key that no user has.
const WRONG_KEY: &str = "AQDqZ2BlAAAAABAAAAAAAAAAAAAAAAAAAAAAAA==";
/// In the lab's network, and nobody's.
const NOBODY: &str = "10.99.0.77:6789";
/// So that a driver that believes the file fails soon.
const TIMEOUTS: &str = "client_mount_timeout = 4\nrados_osd_op_timeout = 4\nrados_mon_op_timeout = 4\n";

fn folder(bench: &Bench, settings: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir_in(&bench.lab.dir).unwrap();
    std::fs::write(folder.path().join("ceph.conf"), format!("[global]\n{TIMEOUTS}{settings}\n")).unwrap();
    folder
}

/// A keyring and a key file of that key, for any user.
fn keys(folder: &Path, user: &str, key: &str) {
    let keyring = format!("[client.{user}]\n\tkey = {key}\n");
    for name in ["ceph.keyring", &format!("ceph.client.{user}.keyring")] {
        std::fs::write(folder.join(name), &keyring).unwrap();
    }
    std::fs::write(folder.join("ceph.key"), key).unwrap();
}

/// Everything of the folder that a writer would change: names, contents and times.
fn digest(folder: &Path) -> BTreeMap<String, (Vec<u8>, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut note = |name: &str, path: &Path, content: Vec<u8>| {
        let about = std::fs::symlink_metadata(path).unwrap();
        let time = |seconds: i64, nanos: i64| seconds * 1_000_000_000 + nanos;
        let times = (time(about.mtime(), about.mtime_nsec()), time(about.ctime(), about.ctime_nsec()));
        found.insert(name.to_owned(), (content, times.0, times.1));
    };
    note(".", folder, Vec::new());
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        note(&name, &entry.path(), std::fs::read(entry.path()).unwrap());
    }
    found
}

/// Makes and deletes a volume under that `/etc/ceph`, whose every byte and time must stay.
fn works_under(bench: &Bench, folder: &Path, at: &str) {
    let before = (digest(folder), digest(Path::new("/etc/ceph")));
    let driver = bench.site.controller_with_etc_ceph(bench.lab, folder);
    let id = bench
        .create(&driver, NAME)
        .unwrap_or_else(|status| panic!("{at}: {status}\n{}", last_lines(&bench.site.log(), 5)));
    bench.delete(&driver, &id).unwrap_or_else(|status| panic!("{at}: {status}"));
    bench.wait_until_empty(at);
    drop(driver);
    assert_eq!((digest(folder), digest(Path::new("/etc/ceph"))), before, "{at}");
}

#[test]
fn it_overrides_neither_monitors_nor_user_nor_key() {
    let mut bench = Bench::new();
    let caps = [("mon", "profile rbd"), ("mgr", "profile rbd pool=rbd"), ("osd", "profile rbd pool=rbd")];
    let key = bench.cluster().user("csi-conf", &caps);
    bench.site.secrets.insert("userID".into(), "csi-conf".into());
    bench.site.secrets.insert("userKey".into(), key);
    let user = "name = client.admin\nuser = admin\nid = admin";
    let section = format!("[client.csi-conf]\nkey = {WRONG_KEY}\nmon_host = {NOBODY}");
    for settings in [
        format!("mon_host = {NOBODY}"),
        format!("mon_host_override = {NOBODY}"),
        "monmap = /etc/ceph/monmap".to_owned(),
        "mon_dns_srv_name = nobody".to_owned(),
        "fsid = 00000000-0000-4000-8000-000000000000".to_owned(),
        "keyring = /etc/ceph/ceph.keyring".to_owned(),
        "keyfile = /etc/ceph/ceph.key".to_owned(),
        format!("key = {WRONG_KEY}"),
        user.to_owned(),
        section.clone(),
        format!(
            "mon_host = {NOBODY}\nkeyring = /etc/ceph/ceph.keyring\nkey = {WRONG_KEY}\n{user}\n{section}"
        ),
    ] {
        let folder = folder(&bench, &settings);
        // In the places where librados looks by itself.
        keys(folder.path(), "csi-conf", WRONG_KEY);
        std::fs::write(folder.path().join("monmap"), "no map").unwrap();
        works_under(&bench, folder.path(), &settings);
    }
}

#[test]
fn what_the_secret_and_config_json_lack_is_not_taken_from_it() {
    let mut bench = Bench::new();
    let admin = bench.cluster().admin_key.clone();
    let monitors = bench.cluster().monitors.clone();
    let good = format!(
        "mon_host = {monitors}\nmon_host_override = {monitors}\nkeyring = /etc/ceph/ceph.keyring\n\
         keyfile = /etc/ceph/ceph.key\nkey = {admin}"
    );
    let folder = folder(&bench, &good);
    keys(folder.path(), "admin", &admin);

    bench.site.secrets.insert("userKey".into(), WRONG_KEY.into());
    let driver = bench.site.controller_with_etc_ceph(bench.lab, folder.path());
    let status = bench.create(&driver, NAME).unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");

    bench.site.secrets.insert("userKey".into(), admin);
    bench.site.configure(NOBODY, "");
    let status = bench.create(&driver, NAME).unwrap_err();
    assert!([Code::DeadlineExceeded, Code::Unavailable].contains(&status.code()), "{status}");
    assert!(status.message().contains(NOBODY), "{status}");
    bench.site.configure(&monitors, "");
    let id = bench.create(&driver, NAME).unwrap();
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("at the end");
}

/// Ceph's own parser ends the process at the first two kinds, and takes the others for a bad key.
#[test]
fn a_file_that_ceph_cannot_read_is_named_and_the_driver_lives() {
    let bench = Bench::new();
    let conf = bench.site.path("ceph.conf");
    let good = std::fs::read(&conf).unwrap();
    for (text, place) in [
        ("[global]\nfoo = gr\u{fc}n\n", ":2:9:"),
        ("\u{feff}[global]\n", ":1:1: a byte order mark"),
        ("[global]\nfoo =\u{a0}1\n", ":2:6: a no-break space"),
        ("[global]\na: b\n", "ceph.conf"),
    ] {
        std::fs::write(&conf, text).unwrap();
        // Each with a driver that has no connection yet.
        let fresh = bench.start_beside();
        let status = bench.create(&fresh, NAME).unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{text:?}: {status}");
        for word in [place, conf.to_str().unwrap()] {
            assert!(status.message().contains(word), "{text:?}: {word}: {status}");
        }
        assert!(!status.message().contains("userKey"), "{status}");
        assert!(bench.create(&fresh, NAME).is_err(), "the process lives");
    }
    // In comments people write what they like, and the last line may have no end.
    for text in
        ["# gr\u{fc}n\n[global]\nclient_mount_timeout = 9 ; \u{fc}", "[global]\nclient_mount_timeout = 9"]
    {
        std::fs::write(&conf, text).unwrap();
        let fresh = bench.start_beside();
        let id = bench.create(&fresh, NAME).unwrap();
        bench.delete(&fresh, &id).unwrap();
        // Its end in the middle of a purge would keep the next one from it for a while.
        bench.wait_until_empty(text);
    }
    std::fs::write(&conf, good).unwrap();
    bench.wait_until_empty("at the end");
}

#[test]
fn its_time_outs_win_over_ours() {
    let bench = Bench::new();
    let folder = folder(&bench, "");
    let driver = bench.site.controller_with_etc_ceph(bench.lab, folder.path());
    let monitor = bench.cluster().stop_monitor();
    let since = Instant::now();
    let status = bench.create_within(&driver, NAME, Duration::from_secs(30)).unwrap_err();
    let time = since.elapsed();
    drop(monitor);
    // 4 s by the file, 15 s by our defaults, 300 s by librados'.
    assert!(time > Duration::from_secs(3) && time < Duration::from_secs(12), "{time:?}: {status}");
    assert!(status.message().contains("rados_connect"), "{status}");
}
