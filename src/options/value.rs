//! Values of flags, in the notation of Go's `flag` package.

use std::time::Duration;

/// `strconv.ParseBool`.
pub fn switch(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// A whole number.
pub fn number(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| "must be a whole number".to_owned())
}

/// `time.ParseDuration` without a sign: `300ms`, `1m30s`, `1.5h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let wrong = || "must be a time with its unit, such as 90s or 1m30s".to_owned();
    let mut rest = text;
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (count, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        total += count.parse::<f64>().map_err(|_| wrong())? * seconds;
        rest = tail;
    }
    Duration::try_from_secs_f64(total).ok().filter(|_| !text.is_empty()).ok_or_else(wrong)
}

/// A CSI driver's name: a DNS subdomain of at most 63 characters, in any case.
pub fn driver_name(name: &str) -> Result<(), String> {
    let edge = |c: char| c.is_ascii_alphanumeric();
    let label = |label: &str| {
        label.starts_with(edge) && label.ends_with(edge) && label.chars().all(|c| edge(c) || c == '-')
    };
    if name.len() > 63 || !name.split('.').all(label) {
        return Err("must be a DNS name of at most 63 characters".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_in_go() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for text in ["", "5", "s", "5 s", "-5s", "1d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_dns_subdomains() {
        assert!(driver_name("rbd.csi.ceph.com").is_ok() && driver_name("A.b-c").is_ok());
        for name in ["", "-a", "a..b", "a_b", &"a".repeat(64)] {
            assert!(driver_name(name).is_err(), "{name}");
        }
    }
}
