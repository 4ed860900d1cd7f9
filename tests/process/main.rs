//! The program itself, as a process: its command line, sockets, signals, logs and metrics.
//! Needs no Ceph, no kernel module and no root.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attach;
mod authority;
mod calls;
mod canary;
mod command_line;
mod configuration;
mod endpoint;
mod http;
mod liveness;
#[allow(dead_code, reason = "another program uses the rest")]
#[path = "../support/page.rs"]
mod page;
mod program;
mod registration;
mod stop;
