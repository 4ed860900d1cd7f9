//! Build part of `proto/`: compiles the messages of CSI and of the kubelet's plugin
//! registration without protoc, and keeps their descriptors; by the `csi_secret`
//! option in CSI's the log blanks secrets.

use std::error::Error;
use std::path::PathBuf;

/// Writes `csi.v1.rs` and `csi.bin`, `pluginregistration.rs` and `.bin` into the output folder.
pub fn build() -> Result<(), Box<dyn Error>> {
    ["csi", "pluginregistration"].into_iter().try_for_each(compile)
}

fn compile(name: &str) -> Result<(), Box<dyn Error>> {
    let file = format!("{name}.proto");
    println!("cargo:rerun-if-changed=proto/{file}");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(false).include_imports(true).open_file(&file)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // Encoded by protox itself: the types of prost-types would drop the options
    // that are extensions (`csi_secret`).
    std::fs::write(out.join(name).with_extension("bin"), compiler.encode_file_descriptor_set())?;

    // Compiled again with comments: they become the documentation of the types.
    let files = protox::Compiler::new(["proto"])?
        .include_source_info(true)
        .include_imports(true)
        .open_file(&file)?
        .file_descriptor_set();
    tonic_prost_build::configure().btree_map(".").build_server(true).build_client(true).compile_fds(files)?;
    Ok(())
}
