//! Build part of `src/ceph`: the C++ shim and the two libraries by name.
//!
//! Debian ships no pkg-config file for librados or librbd, so they are linked by name.

/// Compiles `src/ceph/watchers.cc` and links librbd and librados.
pub fn build() {
    const SHIM: &str = "src/ceph/watchers.cc";
    println!("cargo:rerun-if-changed={SHIM}");
    cc::Build::new().cpp(true).std("c++17").warnings(true).file(SHIM).compile("rbd_csi_watchers");
    println!("cargo:rustc-link-lib=dylib=rbd");
    println!("cargo:rustc-link-lib=dylib=rados");
}
