//! When a caller must have its answer: from gRPC's `grpc-timeout` header.
//!
//! What a reader gets wrong: the answer must leave before the caller's own clock
//! ends the call, or it never learns which step hangs; hence the margin. The work
//! itself goes on (`volume::operation`).

use std::time::Duration;

use tonic::metadata::MetadataMap;

use crate::volume::operation::Deadline;

/// For node calls without a deadline; the kubelet gives its own two minutes.
pub const NODE: Duration = Duration::from_secs(120);
/// For all other calls without a deadline.
pub const CONTROLLER: Duration = Duration::from_secs(60);

const LONGEST_MARGIN: Duration = Duration::from_secs(1);
/// No call needs more; a caller's larger number is no reason to reckon with it.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The deadline of a call with these headers.
pub fn deadline(headers: &MetadataMap, otherwise: Duration) -> Deadline {
    let given = headers.get("grpc-timeout").and_then(|value| parse(value.as_bytes()));
    Deadline::after(given.map_or(otherwise, answer_within))
}

/// What of the caller's time may be used.
fn answer_within(given: Duration) -> Duration {
    let given = given.min(LONGEST);
    given - LONGEST_MARGIN.min(given / 10)
}

/// gRPC over HTTP/2: at most eight digits and a unit.
fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(count * 3600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_understood_and_nothing_else() {
        for (text, expected) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("10S", Some(Duration::from_secs(10))),
            ("1500m", Some(Duration::from_millis(1500))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("0n", Some(Duration::ZERO)),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("", None),
            ("S", None),
            ("10", None),
            ("10s", None),
            ("-1S", None),
            ("+1S", None),
            ("1.5S", None),
            ("999999999S", None),
            (" 1S", None),
        ] {
            assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn the_answer_leaves_a_tenth_but_no_more_than_a_second_earlier() {
        assert_eq!(answer_within(Duration::from_secs(120)), Duration::from_secs(119));
        assert_eq!(answer_within(Duration::from_secs(10)), Duration::from_secs(9));
        assert_eq!(answer_within(Duration::from_secs(1)), Duration::from_millis(900));
        assert_eq!(answer_within(Duration::ZERO), Duration::ZERO);
        assert_eq!(answer_within(Duration::MAX), LONGEST - LONGEST_MARGIN);
    }

    #[test]
    fn without_a_header_or_with_a_broken_one_the_default_holds() {
        let mut headers = MetadataMap::new();
        assert!(deadline(&headers, NODE).left() > Duration::from_secs(118));
        headers.insert("grpc-timeout", "soon".parse().unwrap());
        assert!(deadline(&headers, CONTROLLER).left() > Duration::from_secs(58));
        headers.insert("grpc-timeout", "20S".parse().unwrap());
        let left = deadline(&headers, CONTROLLER).left();
        assert!(left > Duration::from_secs(17) && left <= Duration::from_secs(19), "{left:?}");
    }
}
