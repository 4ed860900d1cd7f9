//! What a user's capabilities have to do with an answer of Ceph, and with none.
//!
//! What a reader gets wrong: a user without OSD capabilities is refused at once by Ceph 16 and 17
//! only. Newer clusters let its first operation wait until librados gives it up.

use crate::volume::error::{Error, Kind};

/// What the user may not do in the pool, with the rights that it lacks; where no OSD has answered,
/// they may be the cause.
pub fn with_rights(error: Error, user: &str, pool: &str) -> Error {
    let caps = format!("\"profile rbd pool={pool}\"");
    match error.kind {
        Kind::Denied => error
            .while_doing(format!("client.{user} lacks rights in pool {pool}; does it have osd caps {caps}?")),
        Kind::Timeout if waited_for_an_osd(&error) => error.while_doing(format!(
            "no answer from pool {pool} in time; do its OSDs run and answer from here, and does client.{user} have \
             osd caps {caps}?"
        )),
        _ => error,
    }
}

/// Functions of librados under their own names ask a monitor, but for the last.
fn waited_for_an_osd(error: &Error) -> bool {
    error.ceph().is_some_and(|cause| {
        cause.is(libc::ETIMEDOUT) && (!cause.op.starts_with("rados_") || cause.op == "rados_list_lockers")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceph::CephError;

    #[test]
    fn who_waited_for_an_osd_is_told_of_the_rights_and_who_waited_for_a_monitor_is_not() {
        let told = |op, errno| with_rights(CephError::new(op, "rbd/x", errno).into(), "u", "rbd").to_string();
        let caps = "osd caps \"profile rbd pool=rbd\"?: ";
        for (op, errno) in [
            ("journal intend", libc::ETIMEDOUT),
            ("rbd_create4", libc::ETIMEDOUT),
            ("journal intend", libc::EPERM),
        ] {
            let text = told(op, errno);
            assert!(text.contains("client.u ") && text.contains(&format!("{caps}{op}")), "{text}");
        }
        for (op, errno) in
            [("rados_wait_for_latest_osdmap", libc::ETIMEDOUT), ("journal intend", libc::ESHUTDOWN)]
        {
            assert!(told(op, errno).starts_with(op));
        }
        // Not Ceph's own time-out.
        assert_eq!(with_rights(Error::new(Kind::Timeout, "late"), "u", "rbd").to_string(), "late");
    }
}
