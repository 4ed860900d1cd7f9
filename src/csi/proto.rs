//! The types that `build/proto.rs` makes of `proto/csi.proto`, and their descriptor.

#![allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]

tonic::include_proto!("csi.v1");

/// The encoded `FileDescriptorSet` of the messages, options included.
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/csi.bin"));
