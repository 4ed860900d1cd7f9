//! Mounts that need the network, as the node's systemd is told of them: `/run/mount/utab`.
//!
//! Lives here: libmount's table of mount options that the kernel does not keep, as far as
//! `_netdev` goes. systemd joins it with the kernel's list of mounts, and unmounts what has
//! `_netdev` before the network goes down. It takes a bare `/dev/rbd0` for a local disk, and
//! would wait for it at the end of a shutdown, when no cluster can be reached any more.
//!
//! What a reader gets wrong: a line is found by its device, its path and its root, and never
//! by a mount's number: that is another one in each mount namespace, and a line with a wrong
//! `ID=` is nobody's. And systemd reads the table again only when it is told to: by the lock
//! file's last close (libmount up to 2.38) or by a write to `utab.event` (since 2.39).
//!
//! A mount is as usable without its line, so nothing here fails a call.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::mountinfo::{self, Mount};
use super::thread::on_thread;
use super::{HostError, Result, place};

const FILE: &str = "/run/mount/utab";
/// It is made once and stays; flock(2) of it is the lock.
const LOCK: &str = "/run/mount/utab.lock";
const EVENT: &str = "/run/mount/utab.event";
/// A node's mounts with options of their own are some hundreds.
const LONGEST: u64 = 16 << 20;
/// mount(8) holds the lock for milliseconds. A mount(8) that was stopped holds it for ever.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(5);

/// Notes that what is mounted at the path needs the network. What hinders it is told in the log.
pub async fn add(target: &Path) {
    let path = target.to_owned();
    let work = move || {
        let Some(mount) = mountinfo::at(&path)? else { return Ok(()) };
        let line = line(&mount);
        rewrite(|table| changed(table, &path, Some(&line)))
    };
    if let Err(error) = on_thread("note mount", &target.display().to_string(), work).await {
        let target = target.display();
        tracing::warn!(%target, %error, "systemd is not told that this mount needs the network: it may be unmounted too late when the node is shut down");
    }
}

/// Takes back what was noted of the path; nothing is there to be taken back where nothing was noted.
pub async fn remove(target: &Path) {
    let path = target.to_owned();
    let work = move || rewrite(|table| changed(table, &path, None));
    if let Err(error) = on_thread("forget mount", &target.display().to_string(), work).await {
        tracing::warn!(target = %target.display(), %error, "a line of a mount that is gone stays in {FILE}");
    }
}

/// Replaces the table by what `change` makes of it, if that differs.
fn rewrite(change: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Result<()> {
    let read = || Ok::<_, HostError>(place::read(Path::new(FILE), LONGEST)?.unwrap_or_default());
    // It is only ever replaced as a whole, so a look needs no lock.
    if change(&read()?).is_none() {
        return Ok(());
    }
    let locked = lock()?;
    if let Some(table) = change(&read()?) {
        place::write_whole(Path::new(FILE), &table, 0o644)?;
    }
    drop(locked);
    let told = File::options().write(true).create(true).mode(0o644).custom_flags(HARMLESS).open(EVENT);
    told.map(drop).map_err(|error| HostError::io("write", EVENT, &error))
}

/// What somebody may have put in the file's place is neither followed nor waited for.
const HARMLESS: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;

/// The lock, held until the file is closed.
fn lock() -> Result<File> {
    let failed = |error: &std::io::Error| HostError::io("lock", LOCK, error);
    // Opened as libmount does: systemd is told by the close of a file that could not be written.
    let file = File::options().read(true).mode(0o644).custom_flags(libc::O_CREAT | HARMLESS).open(LOCK);
    let file = file.map_err(|error| failed(&error))?;
    let until = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(PAUSE),
            Err(std::fs::TryLockError::WouldBlock) => {
                let text = format!("another process has held it for {} s", PATIENCE.as_secs());
                return Err(HostError::new("lock", LOCK, libc::EAGAIN).with(text));
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(failed(&error)),
        }
    }
}

/// As libmount writes it (`fprintf_utab_fs`): the mount as mountinfo shows it, and its options.
fn line(mount: &Mount) -> Vec<u8> {
    let mut line = Vec::new();
    let fields = [("SRC=", &mount.source), (" TARGET=", &mount.point), (" ROOT=", &mount.root)];
    for (name, value) in fields {
        line.extend(name.as_bytes());
        escape(value.as_os_str(), &mut line);
    }
    line.extend(b" OPTS=_netdev\n");
    line
}

fn escape(value: &OsStr, line: &mut Vec<u8>) {
    for byte in value.as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => line.extend(format!("\\{byte:03o}").bytes()),
            byte => line.push(*byte),
        }
    }
}

/// The table with this line as its only one of the path; `None` when it is so already.
fn changed(table: &[u8], target: &Path, wanted: Option<&[u8]>) -> Option<Vec<u8>> {
    let is_own = |line: &&[u8]| {
        let mut fields = line.split(|byte| byte.is_ascii_whitespace());
        fields.any(|field| field.strip_prefix(b"TARGET=").is_some_and(|path| mountinfo::path(path) == target))
    };
    let (own, others): (Vec<&[u8]>, Vec<&[u8]>) =
        table.split_inclusive(|byte| *byte == b'\n').partition(is_own);
    if own.iter().copied().eq(wanted) {
        return None;
    }
    let mut new = others.concat();
    if let Some(wanted) = wanted {
        // Somebody else's last line may lack its end.
        if new.last().is_some_and(|last| *last != b'\n') {
            new.push(b'\n');
        }
        new.extend(wanted);
    }
    Some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What mount(8) of util-linux 2.38 wrote for a bind mount with `_netdev`, and for a `user` mount.
    const OTHERS: &[u8] = b"SRC=/dev/sda1 TARGET=/mnt/a\\040b ROOT=/ BINDSRC=/mnt OPTS=_netdev\n\
        ID=77 SRC=//host/share TARGET=/media/x ROOT=/ ATTRS=a OPTS=user=jo";

    #[test]
    fn a_line_comes_once_and_goes_and_the_others_stay_as_they_are() {
        let target = Path::new("/var/lib/kubelet/p v/x\\y");
        let mount = Mount {
            id: 44,
            device: (252, 0),
            root: "/".into(),
            point: target.into(),
            read_only: false,
            fs_type: "ext4".into(),
            source: "/dev/rbd0".into(),
            read_only_filesystem: false,
            stops_at_errors: false,
        };
        let line = line(&mount);
        let text = b"SRC=/dev/rbd0 TARGET=/var/lib/kubelet/p\\040v/x\\134y ROOT=/ OPTS=_netdev\n";
        assert_eq!(line, text);
        let with = changed(OTHERS, target, Some(&line)).unwrap();
        assert_eq!(with, [OTHERS, b"\n", text].concat());
        assert_eq!(changed(&with, target, Some(&line)), None, "it is there");
        assert_eq!(changed(&with, target, None).unwrap(), [OTHERS, b"\n"].concat());
        assert_eq!(changed(OTHERS, target, None), None, "it never was");
        // A line that a mount of another device has left.
        let stale = b"SRC=/dev/rbd7 TARGET=/var/lib/kubelet/p\\040v/x\\134y ROOT=/ OPTS=_netdev\n";
        assert_eq!(changed(&[stale, OTHERS].concat(), target, Some(&line)).unwrap(), with);
        assert_eq!(changed(b"", target, Some(&line)).unwrap(), line);
        assert_eq!(changed(&line, target, None).unwrap(), b"");
    }
}
