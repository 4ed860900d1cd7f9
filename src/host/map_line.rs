//! The line that maps an image: `<monitors> <options> <pool> <image> <snapshot>`.
//!
//! What a reader gets wrong: the line knows no quoting. Whatever comes from outside is
//! checked for what would add a field or an option; the key is not in the line, only the
//! name under which [`super::keyring`] has put it.

use std::path::PathBuf;

use super::error::{HostError, Result};
use super::keyring;
use crate::secret::Secret;

/// [`HostError::op`] of a name that cannot stand in a map line.
pub const LINE: &str = "krbd map line";

/// What sysfs takes in one write.
const LONGEST: usize = 4095;

/// What a map needs.
#[derive(Debug, Clone)]
pub struct MapRequest {
    /// `ip:port`, all for the protocol of the `ms_mode` among the options.
    pub monitors: Vec<String>,
    /// Without `client.`.
    pub user: String,
    /// The cephx key, base64.
    pub key: Secret,
    /// The cluster: images of other clusters may have the same names.
    pub fsid: String,
    /// The pool's name.
    pub pool: String,
    /// The RADOS namespace, empty for none.
    pub namespace: String,
    /// The image's name.
    pub image: String,
    /// The kernel's options, `name` or `name=value`.
    pub options: Vec<String>,
    /// Whether the device shall refuse writes.
    pub read_only: bool,
    /// The network namespace in which the connections are opened.
    pub netns: Option<PathBuf>,
}

impl MapRequest {
    /// `pool/[namespace/]image`.
    pub fn spec(&self) -> String {
        spec(&self.pool, &self.namespace, &self.image)
    }

    /// Names the part that cannot stand in a map line, which knows no quoting: blanks
    /// separate its fields and commas its options.
    ///
    /// # Errors
    /// EINVAL with the part.
    pub fn check(&self) -> Result<()> {
        let plain = |text: &str| !text.chars().any(|c| c.is_whitespace() || c.is_control());
        let bare = |text: &str| plain(text) && !text.contains(',');
        let wrong = [
            ("the pool's name", plain(&self.pool) && !self.pool.is_empty()),
            ("the image's name", plain(&self.image) && !self.image.is_empty()),
            ("the RADOS namespace", bare(&self.namespace)),
            ("the user's name", bare(&self.user) && !self.user.is_empty()),
            ("a map option", self.options.iter().all(|option| bare(option))),
            ("a monitor's address", self.monitors.iter().all(|address| bare(address))),
            ("the list of monitors", !self.monitors.is_empty()),
        ];
        match wrong.iter().find(|(_, fine)| !fine) {
            None => Ok(()),
            Some((part, _)) => Err(HostError::new(LINE, self.spec(), libc::EINVAL)
                .with(format!("{part} is empty, or contains a blank or comma, and cannot be mapped"))),
        }
    }

    /// The line for sysfs.
    ///
    /// # Errors
    /// As [`MapRequest::check`]; E2BIG for more than sysfs takes at once.
    pub(super) fn line(&self) -> Result<String> {
        self.check()?;
        let mut options =
            vec![format!("name={}", self.user), format!("key={}", keyring::key_name(&self.user))];
        options.extend(self.options.iter().cloned());
        if !self.namespace.is_empty() {
            options.push(format!("_pool_ns={}", self.namespace));
        }
        // Last, since the kernel takes the last word among ro and rw.
        if self.read_only {
            options.push("ro".to_owned());
        }
        let line =
            format!("{} {} {} {} -", self.monitors.join(","), options.join(","), self.pool, self.image);
        if line.len() > LONGEST {
            return Err(HostError::new(LINE, self.spec(), libc::E2BIG).with("names and options are too long"));
        }
        Ok(line)
    }
}

/// `pool/[namespace/]image`, as people write it.
pub fn spec(pool: &str, namespace: &str, image: &str) -> String {
    if namespace.is_empty() { format!("{pool}/{image}") } else { format!("{pool}/{namespace}/{image}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> MapRequest {
        MapRequest {
            monitors: vec!["10.0.0.1:6789".into(), "[fd00::1]:6789".into()],
            user: "csi".into(),
            key: Secret::new("AQD-canary".into()),
            fsid: String::new(),
            pool: "rbd".into(),
            namespace: "ns".into(),
            image: "x".into(),
            options: vec!["queue_depth=64".into()],
            read_only: true,
            netns: None,
        }
    }

    #[test]
    fn the_line_names_the_key_and_does_not_contain_it() {
        assert_eq!(
            request().line().unwrap(),
            "10.0.0.1:6789,[fd00::1]:6789 name=csi,key=client.csi,queue_depth=64,_pool_ns=ns,ro rbd x -"
        );
        assert!(!format!("{:?}", request()).contains("canary"));
    }

    #[test]
    fn what_would_add_a_field_or_an_option_is_refused() {
        let breaks: [fn(&mut MapRequest); 6] = [
            |r| r.pool = "a b".into(),
            |r| r.image = "x\ty".into(),
            |r| r.namespace = "n,secret=x".into(),
            |r| r.user = "u,name=admin".into(),
            |r| r.options.push("ro,name=admin".into()),
            |r| r.monitors.clear(),
        ];
        assert!(request().check().is_ok());
        for change in breaks {
            let mut request = request();
            change(&mut request);
            assert!(request.check().unwrap_err().is(libc::EINVAL), "{request:?}");
        }
    }
}
