//! Build part of `proto/`: compiles the CSI messages without protoc, and keeps
//! their descriptor, by whose `csi_secret` option the log blanks secrets.

use std::error::Error;
use std::path::PathBuf;

const PROTO: &str = "proto/csi.proto";

/// Writes `csi.v1.rs` and `csi.bin` into the output folder.
pub fn build() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO}");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(false).include_imports(true).open_file("csi.proto")?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // Encoded by protox itself: the types of prost-types would drop the options
    // that are extensions (`csi_secret`).
    std::fs::write(out.join("csi.bin"), compiler.encode_file_descriptor_set())?;

    // Compiled again with comments: they become the documentation of the types.
    let files = protox::Compiler::new(["proto"])?
        .include_source_info(true)
        .include_imports(true)
        .open_file("csi.proto")?
        .file_descriptor_set();
    tonic_prost_build::configure().btree_map(".").build_server(true).build_client(true).compile_fds(files)?;
    Ok(())
}
