//! Connections: shared, refused, replaced, given up.

use std::time::Instant;

use rbd_csi::ceph::{Connections, MonitorAddress, WriteOp};

use crate::support::lab::Cluster;
use crate::{Client, admin, credentials, errno, in_lab, monitors};

/// A well-formed key that no user has.
const WRONG_KEY: &str = "AQDqZ2BlAAAAABAAAAAAAAAAAAAAAAAAAAAAAA==";

/// The client's session at the monitor: its address, as the blocklist takes it.
fn session(cluster: &Cluster, instance: u64) -> Option<String> {
    let sessions = cluster.ceph(&["tell", "mon.a", "sessions", "-f", "json"]);
    let sessions: serde_json::Value = serde_json::from_str(&sessions).unwrap();
    let session = sessions.as_array().unwrap().iter().find(|s| s["global_id"].as_u64() == Some(instance))?;
    let address = &session["addrs"]["addrvec"][0];
    Some(format!("{}/{}", address["addr"].as_str().unwrap(), address["nonce"]))
}

#[test]
fn many_who_ask_at_once_share_one_client_and_it_ends_with_the_last() {
    in_lab(async |lab| {
        let cluster = lab.cluster(0);
        let connections = Connections::new(None);
        let gets = (0..20).map(|_| {
            let (connections, cluster) = (connections.clone(), cluster);
            tokio::spawn(async move { connections.get(&monitors(cluster), &admin(cluster)).await.unwrap() })
        });
        let gets: Vec<_> = gets.collect();
        let mut all = Vec::new();
        for get in gets {
            all.push(get.await.unwrap());
        }
        assert!(all.iter().all(|connection| connection.serial() == all[0].serial()));
        assert_eq!(connections.len(), 1);
        assert_eq!(all[0].fsid().await.unwrap(), cluster.fsid);
        // "client." in front is understood, and is the same client.
        let named = credentials("client.admin", &cluster.admin_key);
        assert_eq!(connections.get(&monitors(cluster), &named).await.unwrap().serial(), all[0].serial());

        let instance = all[0].instance_id();
        assert!(session(cluster, instance).is_some());
        let last = all.pop().unwrap();
        drop(all);
        assert!(!format!("{last:?} {named:?}").contains(&cluster.admin_key));
        drop(last);
        assert!(connections.close(std::time::Duration::from_secs(20)).await);
        assert_eq!(session(cluster, instance), None, "the client is still there");
    });
}

#[test]
fn a_refused_user_is_told_at_once_without_its_key_and_not_remembered() {
    in_lab(async |lab| {
        let cluster = lab.cluster(0);
        let connections = Connections::new(None);
        let key = cluster.user("later", &[("mon", "profile rbd"), ("osd", "profile rbd")]);
        for (user, key, expected) in [
            ("admin", WRONG_KEY, libc::EACCES),
            ("nobody", &key, libc::EACCES),
            ("admin", "not base64!", libc::EINVAL),
            ("ad\0min", &key, libc::EINVAL),
        ] {
            let started = Instant::now();
            let error = connections.get(&monitors(cluster), &credentials(user, key)).await.unwrap_err();
            assert_eq!(error.errno, expected, "{user}: {error}");
            assert!(started.elapsed().as_secs() < 5, "{error}");
            assert!(!format!("{error} {error:?}").contains(key));
        }
        assert_eq!(errno(connections.get(&[], &admin(cluster)).await), libc::EINVAL);
        assert!(connections.is_empty());
        // A wrong key that comes in between does not cost the good one its client.
        let good = connections.get(&monitors(cluster), &credentials("later", &key)).await.unwrap();
        errno(connections.get(&monitors(cluster), &credentials("later", WRONG_KEY)).await);
        let again = connections.get(&monitors(cluster), &credentials("later", &key)).await.unwrap();
        assert_eq!(again.serial(), good.serial());
    });
}

#[test]
fn background_work_has_a_client_of_its_own_and_blanks_make_no_other() {
    in_lab(async |lab| {
        let cluster = lab.cluster(0);
        let connections = Connections::new(None);
        let get = async |user: &str, key: &str| {
            connections.get(&monitors(cluster), &credentials(user, key)).await.unwrap().serial()
        };
        let first = get("admin", &cluster.admin_key).await;
        assert_eq!(get(" client.admin\n", &format!("{}\n", cluster.admin_key)).await, first);
        let background =
            async || connections.get_background(&monitors(cluster), &admin(cluster)).await.unwrap();
        let other = background().await.serial();
        assert_ne!(other, first);
        assert_eq!((background().await.serial(), get("admin", &cluster.admin_key).await), (other, first));
        assert_eq!(connections.len(), 2);
        assert!(connections.close(std::time::Duration::from_secs(20)).await);
    });
}

#[test]
fn a_changed_key_replaces_the_client_of_the_old_one() {
    in_lab(async |lab| {
        let cluster = lab.cluster(0);
        let caps = [("mon", "profile rbd"), ("osd", "profile rbd")];
        let old = cluster.user("rotated", &caps);
        let connections = Connections::new(None);
        let first = connections.get(&monitors(cluster), &credentials("rotated", &old)).await.unwrap();
        let instance = first.instance_id();
        drop(first);
        cluster.ceph(&["auth", "del", "client.rotated"]);
        let new = cluster.user("rotated", &caps);
        assert_ne!(old, new);
        let second = connections.get(&monitors(cluster), &credentials("rotated", &new)).await.unwrap();
        assert_eq!(connections.len(), 1);
        second.pool("rbd", "").await.unwrap();
        wait_until("the old client ends", || session(cluster, instance).is_none());
    });
}

#[test]
fn a_blocklisted_client_is_replaced() {
    in_lab(async |lab| {
        let cluster = lab.cluster(0);
        let client = Client::new(cluster, "");
        let pool = client.pool("rbd").await;
        let (serial, instance) = (pool.connection().serial(), pool.connection().instance_id());
        pool.write("test write", "blocklisted", WriteOp::new().create()).await.unwrap();
        let address = session(cluster, instance).unwrap();
        cluster.ceph(&["osd", "blocklist", "add", &address]);
        let error = loop {
            match pool.write("test write", "blocklisted", WriteOp::new().create()).await {
                Ok(()) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                Err(error) => break error,
            }
        };
        assert_eq!(error.errno, libc::ESHUTDOWN);
        assert!(
            error.to_string().contains("rbd/blocklisted") && error.to_string().contains("blocklisted or")
        );
        drop(pool);
        let pool = client.pool("rbd").await;
        assert_ne!(pool.connection().serial(), serial);
        pool.remove("test remove", "blocklisted").await.unwrap();
        assert_eq!(client.connections().len(), 1);
        wait_until("the blocklisted client ends", || session(cluster, instance).is_none());
        cluster.ceph(&["osd", "blocklist", "rm", &address]);
        drop(pool);
        client.end().await;
    });
}

#[test]
fn a_user_may_do_what_its_caps_say() {
    in_lab(async |lab| {
        let cluster = lab.cluster(0);
        let connections = Connections::new(None);
        let key = cluster.user("capless", &[("mon", "profile rbd")]);
        let connection = connections.get(&monitors(cluster), &credentials("capless", &key)).await.unwrap();
        let expected = MonitorAddress {
            v1: Some(format!("{}:6789", cluster.ip).parse().unwrap()),
            v2: Some(format!("{}:3300", cluster.ip).parse().unwrap()),
        };
        assert_eq!(connection.monitors().await.unwrap(), [expected]);
        // The pool is found without any right to it; the first operation tells.
        let pool = connection.pool("rbd", "").await.unwrap();
        let error = pool.image_id("any").await.unwrap_err();
        assert_eq!(error.to_string(), "image id rbd/rbd_id.any: Operation not permitted (EPERM)");
        assert_eq!(errno(pool.watchers("any").await), libc::EPERM);
    });
}

#[test]
fn pools_that_are_missing_new_or_deleted() {
    in_lab(async |lab| {
        let cluster = lab.cluster(0);
        let client = Client::new(cluster, "");
        let connection = client.connection().await;
        assert_eq!(errno(connection.pool("comes-and-goes", "").await), libc::ENOENT);
        assert!(connection.pool_by_id(4711, "").await.unwrap().is_none());
        cluster.ceph(&["osd", "pool", "create", "comes-and-goes", "8"]);
        let pool = connection.pool("comes-and-goes", "team").await.unwrap();
        let same = connection.pool_by_id(pool.id(), "team").await.unwrap().unwrap();
        assert_eq!((same.name(), same.describe("x")), ("comes-and-goes", "comes-and-goes/team/x".into()));
        pool.write("test write", "here", WriteOp::new().create()).await.unwrap();
        assert_eq!(cluster.objects("comes-and-goes"), ["team/here"]);
        pool.confirm().await.unwrap();
        let delete =
            ["osd", "pool", "delete", "comes-and-goes", "comes-and-goes", "--yes-i-really-really-mean-it"];
        cluster.ceph(&delete);
        assert_eq!(errno(pool.confirm().await), libc::ENOENT);
        assert_eq!(errno(pool.stat("test stat", "here").await), libc::ENOENT);
        assert!(connection.pool_by_id(pool.id(), "").await.unwrap().is_none());
    });
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed().as_secs() < 20, "{what}: not within 20 s");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
