//! The secrets of one request, and the Ceph user that they name.
//!
//! What a reader gets wrong: an absent secret is an error only for the call that
//! needs it; the same map goes to all RPCs of a class (csi.proto, "Secrets
//! Requirements"), so keys that nobody knows are nobody's business.

use std::collections::BTreeMap;

use crate::ceph::Credentials;
use crate::secret::Secret;
use crate::volume::error::{Error, Kind, Result};

/// A request's `secrets` map. Its `Debug` shows the keys only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Secrets(pub BTreeMap<String, Secret>);

impl Secrets {
    /// Takes a request's map over.
    pub fn new(map: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(map.into_iter().map(|(name, value)| (name, Secret::new(value))).collect())
    }

    /// The user and key: `userID` and `userKey`, or the older `adminID` and `adminKey`.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] with ceph-csi's texts (its `NewUserCredentials`),
    /// which people search for.
    pub fn credentials(&self) -> Result<Credentials> {
        if self.0.is_empty() {
            return Err(missing("provided secret is empty"));
        }
        // Pairs, never mixed: half of each would be a key for another user.
        let newer = self.user("userID", "userKey");
        let older = self.user("adminID", "adminKey");
        if newer.is_err() && older.is_ok() { older } else { newer }
    }

    fn user(&self, id: &str, key: &str) -> Result<Credentials> {
        let user = self.get(id).ok_or_else(|| missing(format!("missing ID field '{id}' in secrets")))?;
        let key = self.get(key).ok_or_else(|| missing(format!("missing key field '{key}' in secrets")))?;
        // `echo admin | base64` has put a line end into many a secret, and keys are wrapped: librados
        // would skip what a node's kernel refuses, and of a user's name it cannot be seen.
        let key: String = key.reveal().chars().filter(|c| !c.is_whitespace()).collect();
        Ok(Credentials { user: user.reveal().trim().to_owned(), key: Secret::new(key) })
    }

    fn get(&self, name: &str) -> Option<&Secret> {
        self.0.get(name).filter(|secret| !secret.reveal().trim().is_empty())
    }
}

fn missing(text: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(pairs: &[(&str, &str)]) -> std::result::Result<(String, String), String> {
        let map = pairs.iter().map(|(key, value)| ((*key).to_owned(), Secret::new((*value).to_owned())));
        match Secrets(map.collect()).credentials() {
            Ok(found) => Ok((found.user, found.key.reveal().to_owned())),
            Err(error) => {
                assert_eq!(error.kind, Kind::InvalidArgument);
                Err(error.to_string())
            }
        }
    }

    #[test]
    fn the_newer_names_win_and_pairs_are_not_mixed() {
        let pair = |user: &str, key: &str| Ok((user.to_owned(), key.to_owned()));
        assert_eq!(credentials(&[("userID", "u"), ("userKey", "k")]), pair("u", "k"));
        assert_eq!(credentials(&[("adminID", "a"), ("adminKey", "b")]), pair("a", "b"));
        let both = [("userID", "u"), ("userKey", "k"), ("adminID", "a"), ("adminKey", "b")];
        assert_eq!(credentials(&both), pair("u", "k"));
        assert_eq!(credentials(&[both[0], both[2], both[3]]), pair("a", "b"));
        assert!(credentials(&[both[0], both[3]]).is_err());
    }

    #[test]
    fn white_space_is_no_part_of_user_or_key() {
        let wrapped = [("userID", " admin\n"), ("userKey", "AQD0\n  Zm9v==\n")];
        assert_eq!(credentials(&wrapped), Ok(("admin".to_owned(), "AQD0Zm9v==".to_owned())));
        let blank = [("userID", " \n"), ("userKey", "k")];
        assert_eq!(credentials(&blank).unwrap_err(), "missing ID field 'userID' in secrets");
    }

    #[test]
    fn what_is_missing_is_said_as_ceph_csi_says_it() {
        let error = |pairs: &[(&str, &str)]| credentials(pairs).unwrap_err();
        assert_eq!(error(&[]), "provided secret is empty");
        assert_eq!(error(&[("userKey", "k")]), "missing ID field 'userID' in secrets");
        assert_eq!(error(&[("userID", ""), ("userKey", "k")]), "missing ID field 'userID' in secrets");
        assert_eq!(error(&[("userID", "u")]), "missing key field 'userKey' in secrets");
    }

    #[test]
    fn debug_shows_no_value() {
        let secrets = Secrets(BTreeMap::from([("userKey".to_owned(), Secret::new("canary".to_owned()))]));
        let shown = format!("{secrets:?}");
        assert!(shown.contains("userKey") && !shown.contains("canary"), "{shown}");
    }
}
