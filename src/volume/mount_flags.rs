//! `mount_flags` of a volume capability: which a user may give.
//!
//! Lives here: taking them apart and refusing those that would make the mount another
//! thing than a volume. What they mean to the kernel is `host::mount_options`'.
//!
//! What a reader gets wrong: flags may hold secrets (CSI says so), so an error names an
//! option and never its value. And a comma does not always end an option: the kubelet
//! gives an SELinux label as `context="…:c15,c25"`.

use crate::volume::error::{Error, Kind, Result};

/// They turn the mount into another one, open the node to devices and setuid programs, or
/// let the file system write to another of the node's devices (xfs(5), ext4(5)).
const REFUSED: [&str; 11] = [
    "bind",
    "rbind",
    "remount",
    "move",
    "loop",
    "dev",
    "suid",
    "logdev",
    "rtdev",
    "journal_dev",
    "journal_path",
];
/// They leave the journal out: what it holds is neither seen nor, on ext4, kept up.
const WITHOUT_JOURNAL: [&str; 2] = ["norecovery", "noload"];

/// Takes the flags apart into options, `name` or `name=value`; `reader` is a mode that only
/// reads, whose mount is `ro` by itself.
///
/// # Errors
/// [`Kind::InvalidArgument`] naming the option.
pub fn parse(flags: &[String], reader: bool) -> Result<Vec<String>> {
    let mut options = Vec::new();
    for flag in flags {
        for option in split(flag)? {
            check(&option)?;
            if option.starts_with("context=\"")
                && options.iter().any(|other: &String| other.starts_with("context="))
            {
                return Err(invalid("context", "is given twice"));
            }
            options.push(option);
        }
    }
    // To look at a damaged volume they are needed; xfs itself asks for `ro` with them.
    let has = |wanted: &str| options.iter().any(|option| option == wanted);
    let read_only = (reader || has("ro")) && !has("rw");
    match options.iter().find(|option| WITHOUT_JOURNAL.contains(&name(option))) {
        Some(option) if !read_only => Err(invalid(name(option), "is allowed only together with ro")),
        _ => Ok(options),
    }
}

/// Whether the options leave the journal out: then nothing at all may be written to the image.
pub fn without_journal(options: &[String]) -> bool {
    options.iter().any(|option| WITHOUT_JOURNAL.contains(&name(option)))
}

fn split(flag: &str) -> Result<Vec<String>> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for character in flag.chars() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(part) = parts.last_mut() {
            part.push(character);
        }
    }
    if quoted {
        return Err(invalid(name(flag), "has a quote that does not end"));
    }
    Ok(parts.into_iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect())
}

fn check(option: &str) -> Result<()> {
    let name = name(option);
    if REFUSED.contains(&name) {
        return Err(invalid(name, "is not allowed for a volume"));
    }
    if option.chars().any(char::is_control) {
        return Err(invalid(name, "contains a control character"));
    }
    let Some((_, value)) = option.split_once('=') else {
        return if option.contains('"') { Err(invalid(name, "contains a quote")) } else { Ok(()) };
    };
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inner {
        Some(inner) if name == "context" && !inner.contains('"') => Ok(()),
        None if !value.contains('"') => Ok(()),
        _ => Err(invalid(name, "may not be quoted")),
    }
}

fn name(option: &str) -> &str {
    option.split_once('=').map_or(option, |(name, _)| name).trim()
}

fn invalid(name: &str, what: &str) -> Error {
    let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    Error::new(Kind::InvalidArgument, format!("mount_flags: option {shown} {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(flags: &[&str]) -> Result<Vec<String>> {
        parse(&owned(flags), false)
    }

    fn owned(flags: &[&str]) -> Vec<String> {
        flags.iter().map(|flag| (*flag).to_owned()).collect()
    }

    #[test]
    fn a_reader_s_mount_may_leave_the_journal_out() {
        assert!(without_journal(&parse(&owned(&["noload"]), true).unwrap()));
        assert!(!without_journal(&parse(&owned(&["noatime"]), true).unwrap()));
        assert!(parse(&owned(&["noload", "rw"]), true).is_err());
    }

    #[test]
    fn flags_pass_and_one_label_may_hold_commas() {
        let label = r#"context="system_u:object_r:container_file_t:s0:c15,c25""#;
        assert_eq!(
            parsed(&["noatime,discard", label, "_netdev"]).unwrap(),
            ["noatime", "discard", label, "_netdev"]
        );
        assert_eq!(parsed(&["", "a, ,b=c"]).unwrap(), ["a", "b=c"]);
        assert_eq!(parsed(&["norecovery,ro"]).unwrap(), ["norecovery", "ro"]);
    }

    #[test]
    fn what_makes_it_another_mount_is_refused_without_its_value() {
        let label = r#"context="a:c1,c2""#;
        for flags in [
            &["bind"][..],
            &["noatime,remount"],
            &["loop=CANARY"],
            &["suid"],
            &[" dev"],
            &[label, label],
            &["a=\"CANARY,bind\""],
            &["context=\"CANARY"],
            &["context=\"x\"CANARY\""],
            &["a=CANARY\u{7}"],
            &["noatime,logdev=/dev/CANARY"],
            &["rtdev=/dev/CANARY"],
            &["journal_dev=CANARY"],
            &["journal_path=/dev/CANARY"],
            &["norecovery"],
            &["noload,ro", "rw"],
        ] {
            let error = parsed(flags).unwrap_err();
            assert_eq!(error.kind, Kind::InvalidArgument, "{flags:?}");
            assert!(!error.to_string().contains("CANARY"), "{error}");
        }
    }
}
