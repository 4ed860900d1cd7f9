//! What the CO was told, held against the whole of what pools hold: each living volume and
//! snapshot has its journal entry, its image with its size and its parent; in the trash is only
//! what clones need, with the record of its purge; and nothing else is there.

use std::collections::{BTreeMap, BTreeSet};

use rbd_csi::ceph::{Header, ImageId, Pool, SnapshotKind};

use crate::support::bench::Bench;

/// What something was made of, by its handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Nothing,
    Snapshot(String),
    Volume(String),
}

impl Source {
    /// The handle.
    pub fn handle(&self) -> Option<&str> {
        match self {
            Self::Nothing => None,
            Self::Snapshot(handle) | Self::Volume(handle) => Some(handle),
        }
    }
}

/// A volume or a snapshot that the CO believes to exist.
#[derive(Debug, Clone)]
pub struct Told {
    pub snapshot: bool,
    pub name: String,
    pub handle: String,
    pub size: i64,
    pub source: Source,
}

fn uuid(handle: &str) -> &str {
    &handle[handle.len() - 36..]
}

impl Told {
    fn image(&self) -> String {
        format!("{}{}", if self.snapshot { "csi-snap-" } else { "csi-vol-" }, uuid(&self.handle))
    }

    /// What stands beside it, if it is a clone.
    fn beside(&self) -> Option<String> {
        let cloned = !self.snapshot && matches!(self.source, Source::Volume(_));
        cloned.then(|| format!("{}-temp", self.image()))
    }

    /// The image that its own was cloned from.
    fn parent(&self) -> Option<String> {
        match &self.source {
            Source::Nothing => None,
            Source::Snapshot(handle) => Some(format!("csi-snap-{}", uuid(handle))),
            Source::Volume(handle) => self.beside().or_else(|| Some(format!("csi-vol-{}", uuid(handle)))),
        }
    }

    /// The pool's number in its handle.
    fn pool(&self) -> i64 {
        i64::from_str_radix(&self.handle[self.handle.len() - 53..self.handle.len() - 37], 16).unwrap()
    }
}

/// An image in one of the pools.
struct Image {
    name: String,
    /// The time of its entry in the trash, if it is there.
    deleted: Option<u64>,
    header: Option<Header>,
}

/// Pools as they are at the moment, and what does not fit.
struct Audit<'a> {
    bench: &'a Bench,
    pools: &'a [&'a Pool],
    told: &'a [Told],
    images: BTreeMap<(i64, String), Image>,
    wrong: Vec<String>,
}

/// Everything in which the pools differ from what the CO was told; empty when nothing does.
pub fn differences(bench: &Bench, pools: &[&Pool], told: &[Told]) -> Vec<String> {
    let mut audit = Audit { bench, pools, told, images: BTreeMap::new(), wrong: Vec::new() };
    for pool in pools {
        audit.read_images(pool);
    }
    for told in told {
        audit.check_told(told);
    }
    audit.check_images();
    for pool in pools {
        audit.check_journal(pool, false);
        audit.check_journal(pool, true);
        audit.check_objects(pool);
    }
    audit.wrong
}

impl Audit<'_> {
    fn keys(&self, pool: &Pool, object: &str) -> BTreeMap<String, Vec<u8>> {
        match self.bench.wait(pool.omap_all("look", object, "")) {
            Err(error) if error.is(libc::ENOENT) => BTreeMap::new(),
            keys => keys.unwrap(),
        }
    }

    fn pool(&self, id: i64) -> &Pool {
        self.pools.iter().find(|pool| pool.id() == id).unwrap()
    }

    fn read_images(&mut self, pool: &Pool) {
        let mut found = Vec::new();
        for (key, value) in self.keys(pool, "rbd_directory") {
            // A length of four bytes, then the id.
            if let Some(name) = key.strip_prefix("name_") {
                found.push((String::from_utf8_lossy(&value[4..]).into_owned(), name.to_owned(), None));
            }
        }
        for key in self.keys(pool, "rbd_trash").into_keys() {
            let id = key.strip_prefix("id_").unwrap().to_owned();
            if let Some(entry) = self.bench.wait(pool.trash_entry(&ImageId::new(&*id))).unwrap() {
                found.push((id, entry.name, Some(u64::try_from(entry.deleted.as_nanos()).unwrap())));
            }
        }
        for (id, name, deleted) in found {
            let header = self.bench.wait(pool.image_header(&ImageId::new(&*id), &[])).unwrap();
            if self.images.insert((pool.id(), id), Image { name: name.clone(), deleted, header }).is_some() {
                self.wrong.push(format!("{}/{name} is in the trash and has a name", pool.name()));
            }
        }
    }

    /// The image of that name that is not in the trash, with its id.
    fn named(&self, pool: i64, name: &str) -> Option<(&str, &Image)> {
        let mut images = self.images.iter();
        let is = |key: &(i64, String), image: &Image| {
            key.0 == pool && image.name == name && image.deleted.is_none()
        };
        images.find(|(key, image)| is(key, image)).map(|(key, image)| (key.1.as_str(), image))
    }

    fn check_told(&mut self, told: &Told) {
        let wrong = self.wrong_with(told);
        self.wrong.extend(wrong.into_iter().map(|what| format!("{} ({}): {what}", told.name, told.handle)));
    }

    fn wrong_with(&self, told: &Told) -> Vec<String> {
        let mut wrong = Vec::new();
        let name = told.image();
        let Some((id, image)) = self.named(told.pool(), &name) else {
            return vec![format!("no image {name}")];
        };
        let Some(header) = &image.header else { return vec![format!("image {name} has no header")] };
        if header.size != u64::try_from(told.size).unwrap() {
            wrong.push(format!("has {} bytes, was told to have {}", header.size, told.size));
        }
        // Flattened, it has none.
        if let Some(parent) = &header.parent {
            let key = (parent.pool_id, parent.image_id.clone());
            let parent = self.images.get(&key).map(|image| image.name.as_str());
            if parent.is_none() || parent.map(str::to_owned) != told.parent() {
                wrong.push(format!("is a clone of {parent:?} ({key:?}), not of {:?}", told.parent()));
            }
        }
        let own = header.snapshots.iter().filter(|snapshot| snapshot.kind == SnapshotKind::User);
        let own: Vec<&str> = own.map(|snapshot| snapshot.name.as_str()).collect();
        if own != if told.snapshot { vec![name.as_str()] } else { Vec::new() } {
            wrong.push(format!("its image has the snapshots {own:?}"));
        }
        wrong.extend(self.wrong_entry(told, &name, id));
        wrong
    }

    fn wrong_entry(&self, told: &Told, image: &str, id: &str) -> Option<String> {
        let kind = if told.snapshot { "snap" } else { "volume" };
        let object = format!("csi.{kind}.{}", uuid(&told.handle));
        let name_key = if told.snapshot { "csi.snapname" } else { "csi.volname" };
        let mut expected = vec![
            (name_key, told.name.clone()),
            ("csi.imagename", image.to_owned()),
            ("csi.imageid", id.to_owned()),
        ];
        match &told.source {
            Source::Volume(handle) if told.snapshot => {
                expected.push(("csi.source", format!("csi-vol-{}", uuid(handle))));
            }
            Source::Volume(handle) => expected.push(("rbd-csi.source", format!("volume:{handle}"))),
            Source::Snapshot(handle) => expected.push(("rbd-csi.source", format!("snapshot:{handle}"))),
            Source::Nothing => {}
        }
        let pool = self.pool(told.pool());
        let keys = self.keys(pool, &object);
        let as_told = |(key, value): &(&str, String)| keys.get(*key).is_some_and(|is| is == value.as_bytes());
        let attributes = self.bench.wait(pool.list_xattrs("look", &object)).unwrap_or_default();
        if expected.iter().all(as_told) && attributes.is_empty() {
            return None;
        }
        let keys: Vec<_> = keys.iter().map(|(key, value)| (key, String::from_utf8_lossy(value))).collect();
        Some(format!("{object} has {keys:?} and attributes {:?}", attributes.keys()))
    }

    /// Images that living ones are clones of, at any distance, with those.
    fn needed(&self) -> BTreeSet<(i64, String)> {
        let mut needed = BTreeSet::new();
        let mut next: Vec<_> = self.images.iter().filter(|(_, image)| image.deleted.is_none()).collect();
        while let Some((key, image)) = next.pop() {
            if needed.insert(key.clone())
                && let Some(parent) = image.header.as_ref().and_then(|header| header.parent.as_ref())
            {
                next.extend(self.images.get_key_value(&(parent.pool_id, parent.image_id.clone())));
            }
        }
        needed
    }

    fn check_images(&mut self) {
        let needed = self.needed();
        let mut named: BTreeSet<(i64, String)> =
            self.told.iter().map(|told| (told.pool(), told.image())).collect();
        named.extend(self.told.iter().filter_map(|told| Some((told.pool(), told.beside()?))));
        let mut wrong = Vec::new();
        for (key, image) in &self.images {
            let what = format!("image {}/{} (id {})", self.pool(key.0).name(), image.name, key.1);
            if image.deleted.is_none() && !named.contains(&(key.0, image.name.clone())) {
                wrong.push(format!("{what} belongs to nothing"));
            }
            if image.deleted.is_some() && !needed.contains(key) {
                wrong.push(format!("{what} is in the trash, and nothing needs it"));
            }
            // What is in the trash goes as a whole.
            let snapshots = image.header.iter().flat_map(|header| &header.snapshots);
            for snapshot in snapshots.filter(|_| image.deleted.is_none()) {
                if matches!(snapshot.kind, SnapshotKind::Trash(_)) && snapshot.children == 0 {
                    wrong.push(format!("{what} has snapshot {snapshot:?}, which nothing needs"));
                }
            }
            for child in self.bench.wait(self.pool(key.0).children_of(&ImageId::new(&*key.1), None)).unwrap()
            {
                let found = self.images.get(&(child.pool_id, child.image_id.as_str().to_owned()));
                let parent = found.and_then(|child| child.header.as_ref()?.parent.as_ref());
                if parent.is_none_or(|parent| parent.image_id != key.1) {
                    wrong.push(format!("{what} names a clone that is none: {child:?}"));
                }
            }
        }
        self.wrong.extend(wrong);
    }

    fn check_journal(&mut self, pool: &Pool, snapshots: bool) {
        let (directory, prefix) = if snapshots {
            ("csi.snaps.default", "csi.snap.")
        } else {
            ("csi.volumes.default", "csi.volume.")
        };
        let ours = self.told.iter().filter(|told| told.snapshot == snapshots && told.pool() == pool.id());
        let mut expected: BTreeMap<String, String> =
            ours.map(|told| (format!("{prefix}{}", told.name), uuid(&told.handle).to_owned())).collect();
        for (key, value) in self.keys(pool, directory) {
            let value = String::from_utf8_lossy(&value).into_owned();
            let right = match key.strip_prefix("rbd-csi.purge.") {
                Some(id) => {
                    let record: serde_json::Value = serde_json::from_str(&value).unwrap_or_default();
                    let image_pool = record["pool"].as_i64().unwrap_or(pool.id());
                    let image = self.images.get(&(image_pool, id.to_owned()));
                    image.is_some_and(|image| {
                        image.deleted.is_some() && image.deleted == record["deleted"].as_u64()
                    })
                }
                None => expected.remove(&key).as_ref() == Some(&value),
            };
            if !right {
                self.wrong.push(format!("{}/{directory} has {key}: {value}", pool.name()));
            }
        }
        for (key, uuid) in expected {
            self.wrong.push(format!("{}/{directory} has no {key}, which is {uuid}", pool.name()));
        }
    }

    /// Each object is a register or belongs to a living volume or snapshot, or to an image; each
    /// image in the trash has a record.
    fn check_objects(&mut self, pool: &Pool) {
        let registers = [
            "rbd_directory",
            "rbd_info",
            "rbd_trash",
            "rbd_children",
            "rbd_namespace",
            "csi.volumes.default",
            "csi.snaps.default",
        ];
        let records: Vec<String> = ["csi.volumes.default", "csi.snaps.default"]
            .iter()
            .flat_map(|directory| self.keys(pool, directory).into_keys())
            .collect();
        let here = || self.images.iter().filter(|(key, _)| key.0 == pool.id());
        let belongs = |object: &str| {
            let (kind, of) = object.split_once('.').unwrap_or((object, ""));
            let id = of.split('.').next().unwrap();
            match kind {
                "rbd_id" => here().any(|(_, image)| image.deleted.is_none() && image.name == of),
                "rbd_header" | "rbd_object_map" | "rbd_data" => here().any(|(key, _)| key.1 == id),
                "csi" => self.told.iter().any(|told| {
                    let kind = if told.snapshot { "snap" } else { "volume" };
                    told.pool() == pool.id() && of == format!("{kind}.{}", uuid(&told.handle))
                }),
                _ => false,
            }
        };
        let mut wrong = Vec::new();
        for object in self.bench.cluster().objects(pool.name()) {
            let name = object.strip_prefix('/').unwrap_or(&object);
            if registers.contains(&name) {
                let attributes = self.bench.wait(pool.list_xattrs("look", name)).unwrap_or_default();
                wrong.extend(attributes.keys().map(|key| format!("{}/{name} has {key}", pool.name())));
            } else if !belongs(name) {
                wrong.push(format!("{}/{name} belongs to nothing", pool.name()));
            }
        }
        for (key, image) in here().filter(|(_, image)| image.deleted.is_some()) {
            if !records.contains(&format!("rbd-csi.purge.{}", key.1)) {
                wrong.push(format!("{} (id {}) is in the trash without a record", image.name, key.1));
            }
        }
        self.wrong.extend(wrong);
    }
}
