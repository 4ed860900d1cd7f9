//! The commands of docs/ceph-users.md make users that can do all that the driver does, and
//! who are kept out of what is not theirs.

use std::time::Instant;

use crate::support::bench::{Bench, SOON};
use crate::support::driver::Driver;

const PAGE: &str = include_str!("../../docs/ceph-users.md");
const NAME: &str = "pvc-of-a-user";

/// The page's command that makes this user, without `ceph`, in words as a shell would part them.
fn command(user: &str) -> Vec<String> {
    let beginning = format!("    ceph auth get-or-create client.{user} ");
    let line = PAGE.lines().find(|line| line.starts_with(&beginning));
    let line = line.unwrap_or_else(|| panic!("docs/ceph-users.md does not make client.{user}"));
    let mut words = Vec::new();
    for (quoted, part) in line.split('\'').enumerate() {
        if quoted % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words.remove(0);
    words
}

fn login(bench: &mut Bench, user: &str) {
    let made = command(user);
    bench.cluster().ceph(&made.iter().map(String::as_str).collect::<Vec<_>>());
    let key = bench.cluster().ceph(&["auth", "get-key", &format!("client.{user}")]);
    bench.site.secrets.insert("userID".into(), user.to_owned());
    bench.site.secrets.insert("userKey".into(), key);
}

/// Creates, creates again and deletes; the driver goes on to purge.
fn lives(bench: &Bench, parameters: &[(&str, &str)]) -> Driver {
    let driver = bench.start();
    let create = || bench.send(&driver, bench.request(NAME, parameters)).unwrap().volume_id;
    let id = create();
    assert_eq!(create(), id);
    bench.delete(&driver, &id).unwrap();
    driver
}

#[test]
fn the_documented_users_create_and_delete() {
    let mut bench = Bench::new();
    for user in ["csi-rbd-provisioner", "csi-rbd-node"] {
        login(&mut bench, user);
        let _purging = lives(&bench, &[]);
        bench.wait_until_empty(user);
    }
}

#[test]
fn the_documented_user_of_two_pools() {
    let mut bench = Bench::new();
    let pools = bench.cluster().ceph(&["osd", "pool", "ls"]);
    if !pools.lines().any(|pool| pool == "data") {
        crate::support::pool::make(bench.cluster(), "data");
    }
    login(&mut bench, "csi-rbd-two-pools");
    let _purging = lives(&bench, &[("dataPool", "data")]);
    bench.wait_until_empty("with a data pool");
}

#[test]
fn the_documented_user_of_a_namespace_is_kept_in_it() {
    let mut bench = Bench::new();
    login(&mut bench, "csi-rbd-tenant");
    let driver = bench.start();
    let outside = bench.create(&driver, NAME).unwrap_err();
    assert_eq!(outside.code(), tonic::Code::PermissionDenied, "{outside}");
    drop(driver);
    bench.cluster().rbd(&["namespace", "create", "rbd/tenant"]);
    bench.site.configure(&bench.cluster().monitors, "tenant");
    let _purging = lives(&bench, &[]);
    // The purge goes on after the answer; a namespace goes when nothing is in it.
    let until = Instant::now() + SOON;
    let mut remove = bench.cluster().command("rbd");
    remove.args(["namespace", "rm", "rbd/tenant"]);
    while !remove.output().unwrap().status.success() {
        assert!(Instant::now() < until, "the namespace is not empty");
    }
}
