//! What the kernel's answers to a map mean here.
//!
//! The numbers were seen with Linux 6.1; the program `rbd` passes the same ones on as
//! its exit code. An answer that is not in the list keeps its errno and text.

use super::Target;
use super::way::Way;
use crate::host::krbd::{self, MapRequest};
use crate::host::{HostError, greeting, keyring, netns, rbd_program};
use crate::volume::error::{Error, Kind};

/// The answer to a map as the domain's error; `features` are the image's, by name, and
/// `mount_timeout` the seconds that the kernel had to reach a monitor.
pub fn explain(error: HostError, request: &MapRequest, features: &str, mount_timeout: u64) -> Error {
    let doing = format!("mapping {}", request.spec());
    if !matches!(error.op, krbd::MAP | rbd_program::MAP) {
        return before_the_map(error).while_doing(doing);
    }
    let Some(kind) = kind(error.errno) else { return Error::from(error).while_doing(doing) };
    let mut text = match error.errno {
        libc::ETIMEDOUT => format!(
            "the kernel reached none of the monitors {} within {mount_timeout} s, though librados did; is \
             this node (or its network namespace) cut off, or ms_mode wrong for them?",
            request.monitors.join(", ")
        ),
        libc::EINVAL => format!(
            "the kernel does not take the map options ({}), or one needs a feature that the image lacks; \
             the kernel's log names it",
            names(&request.options)
        ),
        libc::EACCES | libc::EPERM => format!(
            "the cluster refuses the kernel as client.{}: wrong key, or capabilities too narrow for this pool",
            request.user
        ),
        libc::ENXIO => format!("this node's kernel cannot map an image with the features {features}"),
        errno => plain(errno).to_owned(),
    };
    text += &netns::suffix(request.netns.as_deref());
    Error::new(kind, text).while_doing(doing).because(error)
}

/// No monitor greets where the kernel would connect to it.
pub fn not_greeted(error: HostError, target: &Target<'_>, way: &Way) -> Error {
    let doing = format!("mapping {}", target.spec());
    if error.op != greeting::GREETING {
        return before_the_map(error).while_doing(doing);
    }
    let text = format!(
        "the kernel would reach none of the monitors {}{}, though librados does, and was not asked: all other \
         volumes of this node would wait for it. Is this node (or its network namespace) cut off from them, or \
         ms_mode wrong for them?",
        way.monitors.join(", "),
        netns::suffix(way.netns.as_deref())
    );
    Error::new(Kind::Unavailable, text).while_doing(doing).because(error)
}

/// The options without their values, one of which may be a key behind a misspelt name.
fn names(options: &[String]) -> String {
    let names = options.iter().map(|option| option.split_once('=').map_or(option.as_str(), |(name, _)| name));
    names.collect::<Vec<_>>().join(",")
}

fn kind(errno: i32) -> Option<Kind> {
    Some(match errno {
        libc::ETIMEDOUT | libc::ESHUTDOWN => Kind::Unavailable,
        libc::EROFS | libc::ENXIO => Kind::Precondition,
        libc::EINVAL => Kind::InvalidArgument,
        libc::EACCES | libc::EPERM => Kind::Denied,
        libc::EBUSY => Kind::InUse,
        libc::ENOENT => Kind::NotFound,
        _ => return None,
    })
}

fn plain(errno: i32) -> &'static str {
    match errno {
        libc::ESHUTDOWN => {
            "the cluster has this node's kernel client on its blocklist (`ceph osd blocklist ls`); it can \
             map again when the entry is gone and nothing is mapped with that client any more"
        }
        libc::EROFS => {
            "another client holds the image's exclusive lock and does not give it up, or the image is not \
             the primary of its mirror"
        }
        libc::EBUSY => "the kernel is still busy with an earlier mapping",
        _ => "the kernel finds no such image, pool or RADOS namespace",
    }
}

/// The steps before the map line is written have numbers of their own.
fn before_the_map(error: HostError) -> Error {
    let (kind, means) = match (error.op, error.errno) {
        (netns::OPEN | netns::ENTER, _) => {
            (Kind::Precondition, "netNamespaceFilePath of config.json is no network namespace of this node")
        }
        (keyring::ADD, libc::EINVAL) => (Kind::Unauthenticated, "the secret's userKey is no cephx key"),
        (krbd::LINE, _) => (Kind::InvalidArgument, ""),
        (_, libc::ENOSYS) => (Kind::Precondition, "--map-with=rbd needs the program rbd (ceph-common)"),
        _ => return error.into(),
    };
    Error::new(kind, means).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn explained(op: &'static str, errno: i32) -> Error {
        let request = MapRequest {
            monitors: vec!["10.0.0.1:6789".into()],
            user: "csi".into(),
            key: Secret::new("CANARY".into()),
            fsid: String::new(),
            pool: "rbd".into(),
            namespace: String::new(),
            image: "x".into(),
            options: vec!["queue_depth=0".into(), "secre=CANARY".into()],
            read_only: false,
            netns: None,
        };
        explain(HostError::new(op, "rbd/x", errno), &request, "layering,journaling", 30)
    }

    #[test]
    fn each_known_answer_says_what_it_means_and_keeps_its_name() {
        for (errno, kind, words) in [
            (libc::ETIMEDOUT, Kind::Unavailable, ["10.0.0.1:6789 within 30 s", "ETIMEDOUT"]),
            (libc::ESHUTDOWN, Kind::Unavailable, ["blocklist", "ESHUTDOWN"]),
            (libc::EROFS, Kind::Precondition, ["exclusive lock", "EROFS"]),
            (libc::ENXIO, Kind::Precondition, ["journaling", "ENXIO"]),
            (libc::EINVAL, Kind::InvalidArgument, ["(queue_depth,secre)", "EINVAL"]),
            (libc::EACCES, Kind::Denied, ["client.csi", "EACCES"]),
            (libc::EPERM, Kind::Denied, ["client.csi", "EPERM"]),
            (libc::EBUSY, Kind::InUse, ["earlier", "EBUSY"]),
            (libc::ENOENT, Kind::NotFound, ["no such image", "ENOENT"]),
            (libc::ENOMEM, Kind::Unavailable, ["mapping rbd/x", "ENOMEM"]),
        ] {
            let error = explained(krbd::MAP, errno);
            assert_eq!(error.kind, kind, "{error}");
            let text = error.to_string();
            assert!(words.iter().all(|word| text.contains(word)) && !text.contains("CANARY"), "{text}");
        }
    }

    #[test]
    fn a_missing_namespace_file_is_no_missing_image() {
        assert_eq!(explained(netns::OPEN, libc::ENOENT).kind, Kind::Precondition);
        assert_eq!(explained(keyring::ADD, libc::EINVAL).kind, Kind::Unauthenticated);
        assert_eq!(explained("nsenter", libc::ENOSYS).kind, Kind::Precondition);
    }
}
