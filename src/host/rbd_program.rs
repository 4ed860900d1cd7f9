//! Map and unmap with Ceph's `rbd` program, for `--map-with=rbd`.
//!
//! Lives here: its command lines and answers; the device it makes is the same as
//! [`super::krbd`]'s and is described by the same [`Mapping`].
//!
//! What a reader gets wrong: the program waits for udev unless it is told `noudev`, and
//! where no udevd runs (a container) it waits for ever. The key is in a memory file that
//! only root can reach through our own `/proc/<pid>/fd`; rbd needs a file whose size it
//! can ask for, so a pipe does not do.

use std::ffi::CString;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::command::{Command, Output, run_blocking};
use super::error::{HostError, Result};
use super::krbd::{self, MapRequest, Mapping};
use super::netns;
use super::step::step;
use crate::secret::Secret;

/// [`HostError::op`] of rbd's answer to a map.
pub const MAP: &str = "rbd map";

/// Maps an image; blocking, at most for `limit`.
///
/// # Errors
/// The errno with which rbd ended and its words; ETIMEDOUT at the limit, when the kernel
/// may still finish the map.
pub fn map(request: &MapRequest, limit: Duration) -> Result<Mapping> {
    let spec = request.spec();
    request.check()?;
    if let Some(path) = &request.netns {
        // nsenter's own failure would pass for an answer of the cluster.
        netns::check(path)?;
    }
    let key = memory_file(&request.key).map_err(|error| HostError::io("memfd_create", "key", &error))?;
    let keyfile = format!("/proc/{}/fd/{}", std::process::id(), key.as_raw_fd());
    let arguments = map_arguments(request, &keyfile);
    let output = step("host: map", MAP, &spec, || {
        let output = run(command(request.netns.as_deref(), &spec, arguments), limit)?;
        answer(MAP, &spec, output)
    })?;
    let device = output.text().trim().to_owned();
    let made = |mapping: &Mapping| mapping.device() == Path::new(&device);
    krbd::mappings()?.into_iter().find(made).ok_or_else(|| {
        HostError::new(MAP, spec, libc::ENODEV).with(format!("its device {device:?} is not in /sys/bus/rbd"))
    })
}

/// Unmaps; a mapping that is gone already is no error. Blocking, at most for `limit`.
///
/// # Errors
/// EBUSY while somebody has the device open; ETIMEDOUT at the limit.
pub fn unmap(mapping: &Mapping, force: bool, limit: Duration) -> Result<()> {
    let device = mapping.device().display().to_string();
    let options = if force { "noudev,force" } else { "noudev" };
    let arguments = ["unmap", "--device-type", "krbd", "--options", options, device.as_str()];
    step("host: unmap", "rbd unmap", &device, || {
        if !krbd::mappings()?.iter().any(|now| now.is_same(mapping)) {
            return Ok(());
        }
        let output = run(command(None, &device, arguments.map(str::to_owned).to_vec()), limit)?;
        match answer("rbd unmap", &device, output) {
            // "not a mapped image or snapshot": somebody else was faster.
            Err(error) if error.is(libc::EINVAL) && !mapping.device().exists() => Ok(()),
            outcome => outcome.map(drop),
        }
    })
}

fn map_arguments(request: &MapRequest, keyfile: &str) -> Vec<String> {
    let modern = request
        .options
        .iter()
        .any(|option| option.strip_prefix("ms_mode=").is_some_and(|mode| mode != "legacy"));
    // rbd gives the kernel only the addresses of the protocol that ms_mode asks for, and
    // cannot know it of an address on an unusual port.
    let protocol = if modern { "v2" } else { "v1" };
    let monitors: Vec<_> = request.monitors.iter().map(|address| format!("{protocol}:{address}")).collect();
    let mut options = vec!["noudev".to_owned()];
    options.extend(request.options.iter().cloned());
    let mut arguments: Vec<String> = Vec::new();
    for pair in [
        ["--id", &request.user],
        ["--mon-host", &monitors.join(",")],
        ["--keyfile", keyfile],
        ["--client-mount-timeout", connect_within(request)],
        ["--device-type", "krbd"],
        ["--pool", &request.pool],
        ["--namespace", &request.namespace],
        ["--image", &request.image],
        ["--options", &options.join(",")],
    ] {
        if !pair[1].is_empty() {
            arguments.extend(pair.map(str::to_owned));
        }
    }
    if request.read_only {
        arguments.push("--read-only".to_owned());
    }
    arguments.push("map".to_owned());
    arguments
}

/// The seconds in which rbd has to reach the monitors itself, before it asks the kernel:
/// as many as the kernel has. Its own 300 would keep all repeats waiting, and it may be in
/// a network namespace from which nobody is reached, unlike the driver.
fn connect_within(request: &MapRequest) -> &str {
    let asked = request.options.iter().rev().find_map(|option| option.strip_prefix("mount_timeout="));
    asked.filter(|seconds| *seconds != "0").unwrap_or("60")
}

/// In another network namespace by `nsenter`, which keeps everything else as it is.
fn command(netns: Option<&Path>, object: &str, arguments: Vec<String>) -> Command {
    match netns {
        None => Command::new("rbd", object, arguments),
        Some(path) => {
            let enter = [format!("--net={}", path.display()), "--".to_owned(), "rbd".to_owned()];
            Command::new("nsenter", object, enter.into_iter().chain(arguments))
        }
    }
}

/// A missing program must not be taken for a missing image, which is ENOENT too.
fn run(command: Command, limit: Duration) -> Result<Output> {
    run_blocking(command, limit).map_err(|error| match error.errno {
        libc::ENOENT => HostError { errno: libc::ENOSYS, ..error },
        _ => error,
    })
}

/// rbd ends with the errno as its exit code.
fn answer(op: &'static str, object: &str, output: Output) -> Result<Output> {
    match output.status.code() {
        Some(0) => Ok(output),
        // nsenter found no rbd.
        Some(126 | 127) => Err(HostError { errno: libc::ENOSYS, ..output.failure() }),
        Some(errno @ 1..=133) => Err(HostError::new(op, object, errno).with(words(&output.stderr))),
        _ => Err(output.failure()),
    }
}

fn words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| line.starts_with("rbd: ")).collect();
    if lines.is_empty() { "rbd gives no reason".to_owned() } else { lines.join("; ") }
}

fn memory_file(key: &Secret) -> std::io::Result<File> {
    let name = CString::new("key")?;
    // Not inherited by programs: rbd opens it through our /proc entry.
    let mut file = File::from(memfd_create(name.as_c_str(), MFdFlags::MFD_CLOEXEC)?);
    file.write_all(key.reveal().trim().as_bytes())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_in_no_argument() {
        let request = MapRequest {
            monitors: vec!["10.0.0.1:3301".into()],
            user: "csi".into(),
            key: Secret::new("AQD-canary".into()),
            fsid: String::new(),
            pool: "rbd".into(),
            namespace: String::new(),
            image: "x".into(),
            options: vec!["ms_mode=secure".into(), "mount_timeout=45".into()],
            read_only: true,
            netns: None,
        };
        let line = map_arguments(&request, "/proc/7/fd/9").join(" ");
        assert_eq!(
            line,
            "--id csi --mon-host v2:10.0.0.1:3301 --keyfile /proc/7/fd/9 \
             --client-mount-timeout 45 --device-type krbd --pool rbd --image x \
             --options noudev,ms_mode=secure,mount_timeout=45 --read-only map"
        );
    }
}
