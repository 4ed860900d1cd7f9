//! An image of the lab's cluster, mapped in this node: a test's hands on it.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use rbd_csi::ceph::{Connections, Credentials, Features, Header, ImageId, ImageSpec, Pool};
use rbd_csi::host::krbd::MapRequest;
use rbd_csi::host::probe::probe;
use rbd_csi::host::{child, krbd, module};
use rbd_csi::node::blank::format_mark::KEY;
use rbd_csi::node::blank::{Format, FsState, make_filesystem};
use rbd_csi::node::checks::Checks;
use rbd_csi::secret::Secret;
use rbd_csi::volume::operation::{Deadline, Operations, Request};
use rbd_csi::volume::{Error, Result};

pub const MIB: u64 = 1 << 20;

/// The images that most tests use: no object map, so every object is asked for.
pub const PLAIN: &str = "layering";
/// The images that ceph-csi makes by default.
pub const MAPPED: &str = "layering,exclusive-lock,object-map,fast-diff,deep-flatten";

/// What is asked for, beside the image.
#[derive(Clone, Copy, Default)]
pub struct Wish {
    pub fs_type: &'static str,
    pub mkfs_options: &'static str,
    pub is_static: bool,
    pub read_only: bool,
    /// Milliseconds until the caller wants its answer; 0: a minute.
    pub patience: u64,
}

impl Wish {
    pub fn of(fs_type: &'static str) -> Self {
        Self { fs_type, ..Self::default() }
    }
}

#[derive(Clone)]
pub struct Volume {
    pub pool: Pool,
    pub name: String,
    pub id: ImageId,
    pub device: PathBuf,
}

/// Runs a program that must succeed; gives what it printed.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {out}{err}");
    out.trim_end().to_owned()
}

fn var(name: &str) -> String {
    std::env::var(name).unwrap()
}

static CONNECTIONS: LazyLock<Connections> = LazyLock::new(|| Connections::new(None));

/// The cluster's pool, and a helper process that is already running.
pub async fn pool() -> Pool {
    child::use_program(PathBuf::from(env!("CARGO_BIN_EXE_rbd-csi")));
    probe(std::env::current_exe().unwrap(), Duration::from_secs(20)).await.unwrap();
    let credentials = Credentials { user: "admin".into(), key: Secret::new(var("BLANK_TEST_KEY")) };
    let connection = CONNECTIONS.get(&[var("BLANK_TEST_MONITORS")], &credentials).await.unwrap();
    connection.pool("rbd", "").await.unwrap()
}

/// The end of a test: librados' threads must be gone before its process exits.
pub async fn leave(pool: Pool) {
    drop(pool);
    assert!(CONNECTIONS.close(Duration::from_secs(20)).await, "a client is left");
}

impl Volume {
    /// A new image, mapped.
    pub async fn new(pool: &Pool, name: &str, size: u64, features: &str) -> Self {
        let spec =
            ImageSpec { size, features: Some(Features::parse(features).unwrap()), ..ImageSpec::default() };
        Self::with(pool, name, spec, "").await
    }

    /// The same of any kind, with krbd's options.
    pub async fn with(pool: &Pool, name: &str, spec: ImageSpec, options: &str) -> Self {
        pool.create_image(name, &spec).await.unwrap();
        Self::existing(pool, name, options).await
    }

    /// Maps an image; `options` are krbd's.
    pub async fn existing(pool: &Pool, name: &str, options: &str) -> Self {
        let id = pool.image_id(name).await.unwrap().unwrap();
        module::ensure_loaded().unwrap();
        let request = MapRequest {
            monitors: vec![var("BLANK_TEST_MONITORS")],
            user: "admin".into(),
            key: Secret::new(var("BLANK_TEST_KEY")),
            fsid: pool.connection().fsid().await.unwrap(),
            pool: "rbd".into(),
            namespace: String::new(),
            image: name.into(),
            options: options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect(),
            read_only: false,
            netns: None,
        };
        let mapping = krbd::map(&request).unwrap();
        Self { pool: pool.clone(), name: name.to_owned(), id, device: mapping.device() }
    }

    pub fn device(&self) -> &str {
        self.device.to_str().unwrap()
    }

    pub fn unmap(&self) {
        let mapping = krbd::mappings().unwrap().into_iter().find(|mapping| mapping.device() == self.device);
        krbd::unmap(&mapping.unwrap(), false).unwrap();
    }

    /// Unmaps and removes it.
    pub async fn done(self) {
        self.unmap();
        self.pool.trash_move(&self.name, &self.id).await.unwrap();
        self.pool.purge(&self.id).await.unwrap();
    }

    pub async fn header(&self) -> Header {
        self.pool.image_header(&self.id, &[KEY]).await.unwrap().unwrap()
    }

    pub async fn is_marked(&self) -> bool {
        self.header().await.metadata.contains_key(KEY)
    }

    /// The numbers of the data objects that RADOS has.
    pub async fn objects(&self) -> BTreeSet<u64> {
        let prefix = format!("{}.", self.header().await.object_prefix);
        let listing = run("rados", &["-p", "rbd", "ls"]);
        let numbers = listing.lines().filter_map(|line| line.strip_prefix(&prefix));
        numbers.map(|number| u64::from_str_radix(number, 16).unwrap()).collect()
    }

    /// The call that is tested.
    pub async fn make(&self, wish: Wish) -> Result<FsState> {
        self.make_among(&Operations::default(), wish).await
    }

    pub async fn make_among(&self, operations: &Operations, wish: Wish) -> Result<FsState> {
        let patience = if wish.patience == 0 { 60_000 } else { wish.patience };
        let request = Request {
            key: self.name.clone(),
            rpc: "NodeStageVolume",
            fingerprint: String::new(),
            deadline: Deadline::after(Duration::from_millis(patience)),
        };
        let volume = self.clone();
        let work = |progress| async move {
            let format = Format {
                pool: &volume.pool,
                image: &volume.name,
                image_id: &volume.id,
                device: &volume.device,
                fs_type: wish.fs_type,
                mkfs_options: wish.mkfs_options,
                node: "node-1",
                is_static: wish.is_static,
                read_only: wish.read_only,
                scratch: Path::new("/tmp"),
                checks: &Checks::default(),
            };
            make_filesystem(&format, &progress).await
        };
        operations.run(request, work).await
    }

    /// The call must refuse and leave every byte and the header as they were.
    pub async fn refused(&self, wish: Wish) -> Error {
        let (digest, header) = (self.digest(), self.header().await);
        let error = self.make(wish).await.unwrap_err();
        assert!(self.digest() == digest, "{} was changed", self.name);
        assert_eq!(self.header().await, header);
        error
    }

    /// A number that stands for all bytes, as the cluster has them.
    pub fn digest(&self) -> u64 {
        run("blockdev", &["--flushbufs", self.device()]);
        let mut device = std::fs::File::open(&self.device).unwrap();
        let (mut digest, mut part) = (DefaultHasher::new(), vec![0; MIB as usize]);
        loop {
            match device.read(&mut part).unwrap() {
                0 => return digest.finish(),
                length => digest.write(&part[..length]),
            }
        }
    }

    /// Writes through to the cluster.
    pub fn write(&self, bytes: &[u8], at: u64) {
        let file = std::fs::File::options().write(true).open(&self.device).unwrap();
        file.write_all_at(bytes, at).unwrap();
        file.sync_all().unwrap();
    }

    /// The file system is whole, can be mounted and keeps a file.
    pub fn is_usable(&self, fs_type: &str) {
        match fs_type {
            "xfs" => run("xfs_repair", &["-n", self.device()]),
            _ => run("e2fsck", &["-f", "-n", self.device()]),
        };
        run("mount", &["-t", fs_type, self.device(), "/mnt"]);
        std::fs::write("/mnt/file", "content").unwrap();
        run("umount", &["/mnt"]);
        run("mount", &["-t", fs_type, "-o", "ro", self.device(), "/mnt"]);
        assert_eq!(std::fs::read_to_string("/mnt/file").unwrap(), "content");
        run("umount", &["/mnt"]);
    }
}
