//! Why the Kubernetes API gave no answer.

use std::time::Duration;

use crate::causes;

/// What kind of fact it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// The API knows who asks, and lets the account not ask that (403).
    Forbidden,
    /// No answer, or none that settles the question: it may come with the next try.
    Away,
}

/// A question that was not answered.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub struct KubeError {
    /// The fact.
    pub fact: Fact,
    text: String,
}

/// The result of this leaf's functions.
pub type Result<T> = std::result::Result<T, KubeError>;

impl KubeError {
    pub(super) fn of(url: &str, error: &::kube::Error) -> Self {
        let (fact, words) = match error {
            ::kube::Error::Api(status) if status.code == 403 => (Fact::Forbidden, status.message.clone()),
            // A token that has just expired or is not known yet, a server that starts or is full.
            ::kube::Error::Api(status) => (Fact::Away, format!("{} ({})", status.message, status.code)),
            error => (Fact::Away, causes::told(error)),
        };
        Self { fact, text: format!("the Kubernetes API at {url}: {words}") }
    }

    pub(super) fn silence(url: &str, limit: Duration) -> Self {
        let words = format!("no answer in {:.1} s", limit.as_secs_f64());
        let text = format!("the Kubernetes API at {url}: {words}");
        Self { fact: Fact::Away, text }
    }
}
