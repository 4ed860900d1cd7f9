//! THE TABLE: which gRPC code says which fact.
//!
//! The only place where codes are chosen. What a reader gets wrong: the sidecars
//! and the kubelet forget a volume after a code that they take for final, which is
//! every one but CANCELLED, DEADLINE_EXCEEDED, UNAVAILABLE and ABORTED; so the
//! domain states a final fact only when nothing is left behind (`Error::unsettled`).

use tonic::{Code, Status};

use crate::volume::error::{Error, Kind};

/// A status travels in HTTP/2 headers, whose lists clients limit (8 KiB is common),
/// percent-encoded to up to three times its length.
const LONGEST: usize = 1024;

/// The code for a kind of fact.
pub fn code(kind: Kind) -> Code {
    match kind {
        // CSI: "Missing/Invalid required field", and parameters that cannot be served.
        Kind::InvalidArgument => Code::InvalidArgument,
        // CSI: "Volume does not exist".
        Kind::NotFound => Code::NotFound,
        // CSI: "Volume already exists but is incompatible".
        Kind::AlreadyExists => Code::AlreadyExists,
        // CSI: "Unsupported capacity_range".
        Kind::OutOfRange => Code::OutOfRange,
        // CSI: "Volume in use" and "published to another node": the caller must first end that use.
        Kind::InUse => Code::FailedPrecondition,
        // Nothing but a change of the world helps, and nothing of ours is left behind.
        Kind::Precondition => Code::FailedPrecondition,
        // The provisioner may look for room elsewhere only after this one.
        Kind::NoSpace => Code::ResourceExhausted,
        // CSI: "lacks permission": who the caller is, is known.
        Kind::Denied => Code::PermissionDenied,
        // CSI: "secrets are not valid for authentication".
        Kind::Unauthenticated => Code::Unauthenticated,
        // CSI: "Invalid starting_token"; the caller begins anew.
        Kind::NoSuchPlace => Code::Aborted,
        // CSI: "Operation pending for volume": only while one runs.
        Kind::Busy => Code::Aborted,
        // The outcome is open, and callers treat it so.
        Kind::Timeout => Code::DeadlineExceeded,
        // As above; UNAVAILABLE makes every caller try again.
        Kind::Unavailable => Code::Unavailable,
        // A bug: final for the callers, so that it shows instead of being repeated for ever.
        Kind::Internal => Code::Internal,
    }
}

/// The status for an error of the domain; its details stay empty, as CSI demands.
pub fn status(error: &Error) -> Status {
    Status::new(code(error.kind), message(&error.to_string()))
}

/// CSI demands a text for people with every error.
fn message(text: &str) -> String {
    if text.trim().is_empty() {
        return "the driver failed and gave no reason".to_owned();
    }
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(LONGEST - '…'.len_utf8())])
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        status(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What external-provisioner, external-attacher and the kubelet take for "may
    /// still be going on" (csi-lib-utils and kubelet's csi_client).
    fn may_still_run(code: Code) -> bool {
        matches!(code, Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable | Code::Aborted)
    }

    #[test]
    fn only_what_is_unsettled_lets_the_callers_come_back() {
        for (kind, again) in [
            (Kind::InvalidArgument, false),
            (Kind::NotFound, false),
            (Kind::AlreadyExists, false),
            (Kind::OutOfRange, false),
            (Kind::InUse, false),
            (Kind::Precondition, false),
            (Kind::NoSpace, false),
            (Kind::Denied, false),
            (Kind::Unauthenticated, false),
            (Kind::NoSuchPlace, true),
            (Kind::Busy, true),
            (Kind::Timeout, true),
            (Kind::Unavailable, true),
            (Kind::Internal, false),
        ] {
            assert_eq!(may_still_run(code(kind)), again, "{kind:?}");
            assert!(may_still_run(code(Error::new(kind, "x").unsettled().kind)), "{kind:?}");
            assert!(!matches!(code(kind), Code::Ok | Code::Unknown), "{kind:?}");
        }
    }

    #[test]
    fn a_message_is_never_empty_and_never_long() {
        assert!(!status(&Error::new(Kind::Internal, " ")).message().is_empty());
        let exact = "x".repeat(LONGEST);
        assert_eq!(status(&Error::new(Kind::Internal, exact.clone())).message(), exact);
        for shift in 0..4 {
            let long = format!("{}{}", "x".repeat(shift), "ü🦀".repeat(400));
            let cut = status(&Error::new(Kind::Internal, long.clone()));
            let kept = cut.message().strip_suffix('…').unwrap();
            assert!(cut.message().len() <= LONGEST && kept.len() > LONGEST - 8 && long.starts_with(kept));
            assert!(cut.details().is_empty());
        }
    }
}
