//! The names of the kernel's and Ceph's error numbers, for people.

/// `No space left on device (ENOSPC)` for 28; Ceph's own 108 is told as what it
/// means there: the client is on the cluster's blocklist.
pub fn describe(errno: i32) -> String {
    // librados returns ESHUTDOWN for a blocklisted client: EBLOCKLISTED in its rados/librados.h.
    if errno == nix::errno::Errno::ESHUTDOWN as i32 {
        return "client is blocklisted or shut down (ESHUTDOWN)".to_owned();
    }
    let errno = nix::errno::Errno::from_raw(errno);
    format!("{} ({errno:?})", errno.desc())
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_the_number_and_says_what_it_means() {
        assert_eq!(super::describe(28), "No space left on device (ENOSPC)");
        assert!(super::describe(108).contains("blocklisted"));
    }
}
