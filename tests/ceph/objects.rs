//! Compound operations on objects: what they answer and what they cost.

use rbd_csi::ceph::{ReadOp, ReadResult, WriteOp};

use crate::{Client, errno, in_lab, with_pool};

const WHAT: &str = "test operation";

#[test]
fn a_compare_and_set_is_all_or_nothing() {
    with_pool(async |_, pool| {
        let object = "compare-and-set";
        let set = |op: WriteOp, value: &str| op.omap_set([("k", value.as_bytes())]);
        // Absent object and key.
        let bare = set(WriteOp::new().omap_equals("k", ""), "1");
        assert_eq!(errno(pool.write(WHAT, object, bare).await), libc::ENOENT);
        let wrong = set(WriteOp::new().create().omap_equals("k", "0"), "1");
        assert_eq!(errno(pool.write(WHAT, object, wrong).await), libc::ECANCELED);
        assert_eq!(errno(pool.stat(WHAT, object).await), libc::ENOENT, "nothing of it happened");
        let first = || set(WriteOp::new().create().omap_equals("k", ""), "1");
        pool.write(WHAT, object, first()).await.unwrap();
        assert_eq!(errno(pool.write(WHAT, object, first()).await), libc::ECANCELED);
        let second =
            WriteOp::new().assert_exists().omap_equals("k", "1").omap_set([("k", "2"), ("l", "x\0y")]);
        pool.write(WHAT, object, second).await.unwrap();
        let found = pool.omap_get(WHAT, object, &["k", "l", "absent"]).await.unwrap();
        assert_eq!(found, [("k".into(), b"2".to_vec()), ("l".into(), b"x\0y".to_vec())].into());
        let exclusive = WriteOp::new().create_exclusive();
        assert_eq!(errno(pool.write(WHAT, object, exclusive).await), libc::EEXIST);
        let last = WriteOp::new().omap_equals("k", "2").omap_remove(["k", "absent"]);
        pool.write(WHAT, object, last).await.unwrap();
        assert_eq!(pool.omap_get(WHAT, object, &["k"]).await.unwrap().len(), 0);
        let error = pool.write(WHAT, object, WriteOp::new().exec(c"rbd", c"nonesuch", Vec::new())).await;
        assert_eq!(errno(error), libc::EOPNOTSUPP);
        assert!(pool.remove_if_there(WHAT, object).await.unwrap());
        assert!(!pool.remove_if_there(WHAT, object).await.unwrap());
        assert_eq!(errno(pool.omap_get(WHAT, object, &["k"]).await), libc::ENOENT);
        assert_eq!(errno(pool.omap_all(WHAT, object, "").await), libc::ENOENT);
        assert_eq!(errno(pool.stat(WHAT, "nul\0").await), libc::EINVAL);
    });
}

#[test]
fn long_omaps_and_long_objects_are_read_whole() {
    with_pool(async |cluster, pool| {
        let keys = (0..2500).map(|i| (format!("a{i:05}"), format!("value {i}")));
        let all = WriteOp::new().omap_set(keys).omap_set([("b", "other")]);
        pool.write(WHAT, "long", all).await.unwrap();
        let found = pool.omap_all(WHAT, "long", "a").await.unwrap();
        assert_eq!((found.len(), found["a02499"].as_slice()), (2500, b"value 2499".as_slice()));
        assert_eq!(pool.omap_all(WHAT, "long", "").await.unwrap().len(), 2501);

        let data: Vec<u8> = (0..(5u32 << 20)).map(|i| (i % 251) as u8).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &data).unwrap();
        cluster.rados(&["-p", "rbd", "put", "long", file.path().to_str().unwrap()]);
        assert_eq!(pool.stat(WHAT, "long").await.unwrap(), data.len() as u64);
        assert_eq!(pool.read_all(WHAT, "long").await.unwrap(), data);

        let op = ReadOp::new().read(1, 4).stat().omap_keys(["b"]).omap_range("a02498", "", 1);
        let results: Vec<_> = pool.read(WHAT, "long", op).await.unwrap().collect();
        let omap = |key: &str, value: &[u8], more| ReadResult::Omap {
            values: [(key.to_owned(), value.to_vec())].into(),
            more,
        };
        assert_eq!(results[0], ReadResult::Bytes(vec![1, 2, 3, 4]));
        assert_eq!(results[1], ReadResult::Size(data.len() as u64));
        assert_eq!(results[2], omap("b", b"other", false));
        assert_eq!(results[3], omap("a02499", b"value 2499", true));

        let (page, more) = pool.omap_page(WHAT, "long", "a00009", "a", 3).await.unwrap();
        assert_eq!(
            (page.keys().cloned().collect::<Vec<_>>(), more),
            (vec!["a00010".into(), "a00011".into(), "a00012".into()], true)
        );
        let (page, more) = pool.omap_page(WHAT, "long", "a02498", "a", 3).await.unwrap();
        assert_eq!((page.len(), more), (1, false));
        let op = ReadOp::new().stat_with_time().omap_keys(["b"]);
        let mut results = pool.read(WHAT, "long", op).await.unwrap();
        let Some(ReadResult::Stat { size, modified }) = results.next() else { panic!("no stat") };
        let age = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap() - modified;
        assert!(size == data.len() as u64 && age.as_secs() < 60, "{size} {age:?}");
        assert_eq!(results.next().unwrap().into_omap().len(), 1);
        assert_eq!(pool.list_xattrs(WHAT, "long").await.unwrap().len(), 0);
        assert_eq!(errno(pool.list_xattrs(WHAT, "absent").await), libc::ENOENT);

        let same = WriteOp::new().content_equals([0, 1, 2]);
        pool.write(WHAT, "long", same.clone()).await.unwrap();
        let other = WriteOp::new().content_equals([0, 1, 3]).remove();
        assert!(WriteOp::is_mismatch(errno(pool.write(WHAT, "long", other).await)));
        pool.write(WHAT, "long", same.remove()).await.unwrap();
        assert_eq!(errno(pool.read_all(WHAT, "long").await), libc::ENOENT);
    });
}

#[test]
fn watchers_are_those_who_watch() {
    with_pool(async |cluster, pool| {
        assert_eq!(errno(pool.watchers("watched").await), libc::ENOENT);
        pool.write(WHAT, "watched", WriteOp::new().create()).await.unwrap();
        assert_eq!(pool.watchers("watched").await.unwrap(), []);
        let watch = || {
            let mut rados = cluster.command("rados");
            // It watches until it reads the end of a line.
            rados.args(["-p", "rbd", "watch", "watched"]).stdin(std::process::Stdio::piped());
            crate::support::lab::Running(rados.stdout(std::process::Stdio::null()).spawn().unwrap())
        };
        let running: Vec<_> = (0..3).map(|_| watch()).collect();
        let mut watchers = Vec::new();
        for _ in 0..100 {
            watchers = pool.watchers("watched").await.unwrap();
            if watchers.len() == 3 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        assert_eq!(watchers.len(), 3);
        let listed = cluster.rados(&["-p", "rbd", "listwatchers", "watched"]);
        for watcher in &watchers {
            let line =
                format!("watcher={} client.{} cookie={}", watcher.address, watcher.client, watcher.cookie);
            assert!(listed.contains(&line), "{line} is not in {listed}");
        }
        drop(running);
        pool.remove(WHAT, "watched").await.unwrap();
    });
}

#[test]
fn each_call_costs_one_operation() {
    in_lab(async |lab| {
        let client = Client::new(lab.cluster(0), "");
        let pool = client.pool("rbd").await;
        let mut cost = client.costs();
        pool.write(WHAT, "counted", WriteOp::new().create().omap_set([("a", "b")])).await.unwrap();
        cost("a compound write", 1);
        pool.omap_get(WHAT, "counted", &["a"]).await.unwrap();
        cost("omap keys", 1);
        pool.omap_all(WHAT, "counted", "").await.unwrap();
        cost("a short omap", 1);
        pool.read_all(WHAT, "counted").await.unwrap();
        cost("a short object", 1);
        pool.watchers("counted").await.unwrap();
        cost("watchers", 1);
        pool.connection().pool_by_id(pool.id(), "").await.unwrap().unwrap();
        pool.connection().monitors().await.unwrap();
        cost("the cluster's maps", 0);
        pool.remove(WHAT, "counted").await.unwrap();
        cost("a removal", 1);
        drop((pool, cost));
        client.end().await;
    });
}
