//! Devices by the numbers that inodes, mounts and sysfs name them with.

/// A device and its partitions, as `major:minor`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    /// The numbers by which inodes and mounts name them.
    pub numbers: Vec<(u32, u32)>,
}

impl Devices {
    /// Whether this is one of them.
    pub fn contains(&self, device: (u32, u32)) -> bool {
        self.numbers.contains(&device)
    }
}

/// `st_dev` or `st_rdev` as major and minor.
pub fn split(number: u64) -> (u32, u32) {
    (libc::major(number), libc::minor(number))
}
