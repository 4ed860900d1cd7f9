//! Faults on demand, for test builds (feature `fault-injection`).
//!
//! Every call to Ceph and every step on the host passes [`before`] and
//! [`after`]. In a normal build both are empty. In a test build they count the
//! steps and, when the armed plan says so, let the n-th one fail with an
//! errno, wait, or kill the process as SIGKILL does: no destructor runs.
//!
//! The plan is a text: `ACTION:WHERE:STEP`, several joined by `;`.
//! ACTION is `kill`, `fail=ERRNO` or `delay=MILLISECONDS`; WHERE is `before` or
//! `after`; STEP is the number of a step since the plan was read (from 1), or
//! `NAME`, the first step of that name, or `NAME#K`, the K-th of it.
//! It is read from the file that `RBD_CSI_FAULTS` names, again at every change
//! of its text, which also starts the count anew; each step is appended to the
//! same path with `.trace` behind it: number, blank, name, tab, object. Steps that run
//! side by side change places from run to run: there a name is surer than a number.

#[cfg(not(feature = "fault-injection"))]
mod armed {
    /// Nothing strikes in a normal build.
    #[inline(always)]
    pub fn before(_step: &str, _object: &str) -> Result<(), i32> {
        Ok(())
    }

    /// Nothing strikes in a normal build.
    #[inline(always)]
    pub fn after(_step: &str, _object: &str) -> Result<(), i32> {
        Ok(())
    }
}

#[cfg(feature = "fault-injection")]
mod armed {
    use std::collections::HashMap;
    use std::io::Write as _;
    use std::path::PathBuf;
    use std::sync::{LazyLock, Mutex, PoisonError};
    use std::time::Duration;

    enum Action {
        Kill,
        Fail(i32),
        Delay(Duration),
    }

    struct Fault {
        action: Action,
        before: bool,
        name: Option<String>,
        nth: u64,
    }

    #[derive(Default)]
    struct Plan {
        text: String,
        faults: Vec<Fault>,
        steps: u64,
        by_name: HashMap<String, u64>,
    }

    static FILE: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("RBD_CSI_FAULTS").map(PathBuf::from));
    static PLAN: LazyLock<Mutex<Plan>> = LazyLock::new(Mutex::default);

    fn parse(text: &str) -> Vec<Fault> {
        text.trim()
            .split(';')
            .filter(|part| !part.is_empty())
            .filter_map(|part| {
                let mut fields = part.splitn(3, ':');
                let action = match fields.next()? {
                    "kill" => Action::Kill,
                    other => match other.split_once('=')? {
                        ("fail", errno) => Action::Fail(errno.parse().ok()?),
                        ("delay", ms) => Action::Delay(Duration::from_millis(ms.parse().ok()?)),
                        _ => return None,
                    },
                };
                let before = fields.next()? == "before";
                let step = fields.next()?;
                let (name, nth) = match (step.parse(), step.split_once('#')) {
                    (Ok(number), _) => (None, number),
                    (_, Some((name, nth))) => (Some(name.to_owned()), nth.parse().ok()?),
                    _ => (Some(step.to_owned()), 1),
                };
                Some(Fault { action, before, name, nth })
            })
            .collect()
    }

    fn trace(file: &std::path::Path, line: std::fmt::Arguments<'_>) {
        let mut path = file.as_os_str().to_owned();
        path.push(".trace");
        if let Ok(mut trace) = std::fs::File::options().create(true).append(true).open(path) {
            // One write a line, so that lines of several threads do not mix.
            let _ = trace.write_all(format!("{line}\n").as_bytes());
        }
    }

    fn strike(step: &str, object: &str, before: bool) -> Result<(), i32> {
        let Some(file) = FILE.as_deref() else { return Ok(()) };
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let mut delay = None;
        let mut fail = None;
        {
            let mut plan = PLAN.lock().unwrap_or_else(PoisonError::into_inner);
            if plan.text != text {
                *plan = Plan { faults: parse(&text), text, ..Plan::default() };
            }
            if before {
                plan.steps += 1;
                *plan.by_name.entry(step.to_owned()).or_default() += 1;
                trace(file, format_args!("{} {step}\t{object}", plan.steps));
            }
            let (number, of_name) = (plan.steps, plan.by_name.get(step).copied().unwrap_or(0));
            for fault in plan.faults.iter().filter(|fault| fault.before == before) {
                let struck = match &fault.name {
                    Some(name) => name == step && fault.nth == of_name,
                    None => fault.nth == number,
                };
                match (&fault.action, struck) {
                    (_, false) => {}
                    (Action::Kill, true) => {
                        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
                    }
                    (Action::Fail(errno), true) => fail = Some(*errno),
                    (Action::Delay(time), true) => delay = Some(*time),
                }
            }
        }
        if let Some(time) = delay {
            std::thread::sleep(time);
        }
        fail.map_or(Ok(()), Err)
    }

    /// Counts the step and strikes when the plan says so.
    pub fn before(step: &str, object: &str) -> Result<(), i32> {
        strike(step, object, true)
    }

    /// Strikes after the step was done, when the plan says so.
    pub fn after(step: &str, object: &str) -> Result<(), i32> {
        strike(step, object, false)
    }
}

/// To be called before each step; `Err` is the positive errno to fail with.
pub fn before(step: &str, object: &str) -> Result<(), i32> {
    armed::before(step, object)
}

/// To be called after each step that was done; `Err` is the positive errno to fail with.
pub fn after(step: &str, object: &str) -> Result<(), i32> {
    armed::after(step, object)
}
