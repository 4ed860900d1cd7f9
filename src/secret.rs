//! A value that must never be seen: keys and passphrases.
//!
//! Lives here: the one type that holds them. It has no `Display`, its `Debug`
//! shows nothing, and its memory is wiped when it is dropped. Whoever needs the
//! bytes says so by calling [`Secret::reveal`], which makes each use findable.

use zeroize::Zeroizing;

/// A secret text, such as a cephx key.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text over; the caller keeps no copy.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself. Never log it, never put it into an error or an argv.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::hash::Hash for Secret {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.reveal().hash(state);
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}
