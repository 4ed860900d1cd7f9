//! Memory of a process, as the kernel tells it.

/// Anonymous memory in bytes: what the process itself asked for, without its libraries.
pub fn anonymous(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Anonymous:")).expect("smaps_rollup has it");
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
