//! Who somebody is to Ceph.

use crate::secret::Secret;

/// A cephx user and its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// The user's id without `client.`; one that is given with it is understood.
    pub user: String,
    /// The key, as `ceph auth print-key` prints it.
    pub key: Secret,
}

impl Credentials {
    /// The user's id, never with `client.` in front nor blanks around.
    pub fn user(&self) -> &str {
        let user = self.user.trim();
        user.strip_prefix("client.").unwrap_or(user)
    }
}
