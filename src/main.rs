//! The program `rbd-csi`.

fn main() {}
