//! Every state that librbd's create, trash move and remove pass through, and
//! every one that ours pass through, built by hand; from each of them a move and
//! a purge leave nothing, and the name can be used again.
//!
//! What a reader gets wrong: a state is what is *left*: each letter is a piece.
//! D directory entry, I `rbd_id`, H header, M object map, T trash entry.

use rbd_csi::ceph::{ImageId, Pool, WriteOp};

use crate::image::{FIVE, create};
use crate::support::lab::Cluster;
use crate::{objects_of, with_pool};

const WHAT: &str = "test piece";

fn text(value: &str) -> Vec<u8> {
    [&u32::try_from(value.len()).unwrap().to_le_bytes(), value.as_bytes()].concat()
}

async fn exec(pool: &Pool, object: &str, method: &'static std::ffi::CStr, input: Vec<u8>) {
    pool.write(WHAT, object, WriteOp::new().exec(c"rbd", method, input)).await.unwrap();
}

/// Takes the pieces away that the state does not have, and puts an entry of that
/// kind (`m`oving, `n`ormal, `r`emoving) into the trash.
async fn build(pool: &Pool, name: &str, state: &str) -> ImageId {
    let id = create(pool, name, FIVE).await;
    for (piece, object) in
        [('I', format!("rbd_id.{name}")), ('H', id.header_object()), ('M', id.object_map_object())]
    {
        if !state.contains(piece) {
            pool.remove(WHAT, &object).await.unwrap();
        }
    }
    if !state.contains('D') {
        let input = [text(name), text(id.as_str())].concat();
        exec(pool, "rbd_directory", c"dir_remove_image", input).await;
    }
    if let Some((_, trash)) = state.split_once('T') {
        let number = match trash {
            "m" => 1,
            "n" => 0,
            "r" => 2,
            other => panic!("{other}"),
        };
        let fields = [&[0u8][..], &text(name), &[0; 16], &[number]].concat();
        let length = u32::try_from(fields.len()).unwrap().to_le_bytes();
        let input = [&text(id.as_str())[..], &[2, 1], &length, &fields].concat();
        exec(pool, "rbd_trash", c"trash_add", input).await;
    }
    if state.contains('e') {
        // Emptied, as a header is to which only a lock or metadata were written.
        pool.remove(WHAT, &id.header_object()).await.unwrap();
        pool.write(WHAT, &id.header_object(), WriteOp::new().create()).await.unwrap();
    }
    id
}

async fn nothing_is_left(cluster: &Cluster, pool: &Pool, name: &str, id: &ImageId, state: &str) {
    assert_eq!(objects_of(cluster, &[id.as_str(), name]), Vec::<String>::new(), "state {state}");
    assert_eq!(pool.directory_id(name).await.unwrap(), None, "state {state}");
    assert_eq!(pool.directory_name(id).await.unwrap(), None, "state {state}");
    assert_eq!(pool.trash_entry(id).await.unwrap(), None, "state {state}");
    assert_eq!(pool.trash_find(name).await.unwrap(), [], "state {state}");
}

/// Of a create, in order, and of its undoing; then what only repairs by hand leave.
const CREATES: [&str; 12] = ["D", "DI", "DIH", "DIHM", "DIM", "I", "IHM", "HM", "M", "H", "DHM", "DIHeM"];
/// Of a move: librbd's order, ours (I and D at once), and of a purge.
const TRASHES: [&str; 15] = [
    "DIHMTm", "DHMTm", "IHMTm", "HMTm", "HTm", "DTm", "DITm", "Tm", "HMTn", "DHMTn", "DIHMTn", "HMTr", "MTr",
    "Tr", "DHMTr",
];

#[test]
fn a_move_and_a_purge_end_every_state() {
    with_pool(async |cluster, pool| {
        for state in CREATES.iter().chain(&TRASHES) {
            let name = format!("partial-{state}");
            let id = build(&pool, &name, state).await;
            pool.trash_move(&name, &id).await.unwrap_or_else(|error| panic!("state {state}: {error}"));
            pool.trash_move(&name, &id).await.unwrap_or_else(|error| panic!("state {state} again: {error}"));
            pool.purge(&id).await.unwrap_or_else(|error| panic!("state {state}: {error}"));
            pool.purge(&id).await.unwrap_or_else(|error| panic!("state {state} again: {error}"));
            pool.trash_move(&name, &id).await.unwrap_or_else(|error| panic!("state {state} after: {error}"));
            nothing_is_left(cluster, &pool, &name, &id, state).await;
            let id = create(&pool, &name, FIVE).await;
            pool.trash_move(&name, &id).await.unwrap();
            pool.purge(&id).await.unwrap();
        }
    });
}

#[test]
fn a_purge_alone_ends_every_state_behind_a_move() {
    with_pool(async |cluster, pool| {
        for state in TRASHES.iter().filter(|state| !state.contains('D') || state.contains("Tm")) {
            let name = format!("purged-{state}");
            let id = build(&pool, &name, state).await;
            pool.purge(&id).await.unwrap_or_else(|error| panic!("state {state}: {error}"));
            nothing_is_left(cluster, &pool, &name, &id, state).await;
        }
    });
}

#[test]
fn an_unfinished_create_is_taken_back_from_every_state() {
    with_pool(async |cluster, pool| {
        for state in CREATES {
            let name = format!("undone-{state}");
            let id = build(&pool, &name, state).await;
            for _ in 0..2 {
                let undone = pool.remove_partial_image(&name, &id).await;
                undone.unwrap_or_else(|error| panic!("state {state}: {error}"));
            }
            nothing_is_left(cluster, &pool, &name, &id, state).await;
        }
    });
}

#[test]
fn an_empty_id_object_does_not_block_its_name() {
    with_pool(async |cluster, pool| {
        let id = build(&pool, "emptied", "DHM").await;
        pool.write(WHAT, "rbd_id.emptied", WriteOp::new().create()).await.unwrap();
        assert_eq!(pool.image_id("emptied").await.unwrap(), None);
        assert_eq!(pool.directory_id("emptied").await.unwrap().as_ref(), Some(&id));
        pool.trash_move("emptied", &id).await.unwrap();
        pool.purge(&id).await.unwrap();
        nothing_is_left(cluster, &pool, "emptied", &id, "an empty id object").await;
    });
}
