//! The types that `build/proto.rs` makes of `proto/pluginregistration.proto`.

#![allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]

tonic::include_proto!("pluginregistration");

/// The encoded `FileDescriptorSet` of the messages.
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pluginregistration.bin"));
