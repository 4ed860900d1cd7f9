//! The one error type of the domain: a fact, a text for people, a cause.
//!
//! Kinds are facts, not gRPC codes; `csi::status` is the only place that turns
//! the one into the other. A text says what failed, on which object, who is in
//! the way and what to do; it never repeats its cause, which is printed behind it.

use std::sync::Arc;

use crate::ceph::CephError;

/// What kind of fact an error states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A field of the request, a parameter or a secret is missing or wrong.
    InvalidArgument,
    /// The volume, or what the request names, does not exist.
    NotFound,
    /// Something of that name exists and differs from what is asked for.
    AlreadyExists,
    /// The size that is asked for is impossible.
    OutOfRange,
    /// Somebody else uses the volume; the text says who.
    InUse,
    /// The state of the world forbids it: wrong order, foreign data, a missing configuration.
    Precondition,
    /// The pool or its quota is full.
    NoSpace,
    /// The key is good and may not do this (EPERM).
    Denied,
    /// The cluster refuses the user or the key (EACCES at connect).
    Unauthenticated,
    /// The place where a list was to go on is none that a list of ours ended at.
    NoSuchPlace,
    /// Work on the same volume runs already, or the work asked for goes on and says how far
    /// it is; the text says which, since when, in which step.
    Busy,
    /// Not done in the time that the caller gave; it may still be running.
    Timeout,
    /// The cluster did not answer, or dropped us; nothing is known to be wrong with the request.
    Unavailable,
    /// A bug or a state that should not exist.
    Internal,
}

/// An error of the domain.
#[derive(Debug, Clone)]
pub struct Error {
    /// The fact.
    pub kind: Kind,
    text: String,
    /// Everything that the failed work had made was taken back.
    settled: bool,
    cause: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// The result of the domain's functions.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with no further cause.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), settled: false, cause: None }
    }

    /// The same error with the error below it.
    pub fn because(mut self, cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.cause = Some(Arc::new(cause));
        self
    }

    /// Puts what was being done in front of the text.
    pub fn while_doing(mut self, what: impl std::fmt::Display) -> Self {
        self.text = if self.text.is_empty() { what.to_string() } else { format!("{what}: {}", self.text) };
        self
    }

    /// The same text as another kind of fact, where the caller knows better.
    pub fn of_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// The failed call to Ceph that is the cause, if one is.
    pub fn ceph(&self) -> Option<&CephError> {
        self.cause.as_deref()?.downcast_ref()
    }

    /// The same error after everything was taken back: its kind may be final.
    pub fn settled(mut self) -> Self {
        self.settled = true;
        self
    }

    /// Whether everything that the failed work had made was taken back.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Whether the cluster refused for good: a repeat alone will not help.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self.kind,
            Kind::NoSpace | Kind::Denied | Kind::Unauthenticated | Kind::InvalidArgument | Kind::OutOfRange
        )
    }

    /// The same error where something durable may be left behind.
    ///
    /// The sidecars forget a volume after a code that they take for final
    /// (csi-spec: every code but Canceled, DeadlineExceeded, Unavailable and
    /// Aborted), so a final kind becomes [`Kind::Unavailable`]: the CO calls again.
    pub fn unsettled(mut self) -> Self {
        if !self.settled && !matches!(self.kind, Kind::Busy | Kind::Timeout | Kind::Unavailable) {
            let unfinished = "unfinished; calling again goes on where this stopped";
            self.text = match self.text.as_str() {
                "" => unfinished.to_owned(),
                text => format!("{text} ({unfinished})"),
            };
            self.kind = Kind::Unavailable;
        }
        self
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.cause, self.text.is_empty()) {
            (Some(cause), true) => write!(f, "{cause}"),
            (Some(cause), false) => write!(f, "{}: {cause}", self.text),
            (None, _) => f.write_str(&self.text),
        }
    }
}

impl std::error::Error for Error {}

impl From<CephError> for Error {
    /// The kinds that an errno has wherever it comes from. What ENOENT, EEXIST
    /// or EBUSY mean depends on the step: whoever expects one says so itself.
    fn from(error: CephError) -> Self {
        let kind = match error.errno {
            libc::ETIMEDOUT => Kind::Timeout,
            libc::EACCES => Kind::Unauthenticated,
            libc::EPERM => Kind::Denied,
            libc::ENOSPC | libc::EDQUOT => Kind::NoSpace,
            libc::ESHUTDOWN | libc::ENOTCONN | libc::EAGAIN | libc::EINTR | libc::EIO => Kind::Unavailable,
            _ => Kind::Internal,
        };
        Self::new(kind, "").because(error)
    }
}
