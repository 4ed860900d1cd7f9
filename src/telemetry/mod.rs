//! What the process tells about itself: log lines (`log`), one for each call
//! (`calls`, secrets blanked by `redact`), metrics and health over HTTP (`http`).

pub mod calls;
pub mod http;
pub mod log;
pub mod redact;
