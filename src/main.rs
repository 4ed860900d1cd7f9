//! The program `rbd-csi`: reads its options and hands over to the library.
//!
//! The only place that prints to stdout; everything else is a log line on stderr.

use std::io::Write as _;
use std::process::ExitCode;

use rbd_csi::host::helper;
use rbd_csi::options::{self, Asked};
use rbd_csi::start;

/// Bad arguments, as Go's `flag` package ends.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.next_if(|argument| argument == "internal").is_some() {
        return helper::main(arguments);
    }
    match options::parse(arguments) {
        Ok(Asked::Help) => print(&options::help()),
        Ok(Asked::Version) => print(&options::version()),
        Ok(Asked::Run(options)) => start::run(*options),
        Err(error) => {
            eprintln!("rbd-csi: {error}");
            ExitCode::from(USAGE)
        }
    }
}

fn print(text: &str) -> ExitCode {
    // A reader that has gone (`--help | head -1`) is no failure.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    ExitCode::SUCCESS
}
