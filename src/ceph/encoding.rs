//! Ceph's wire encoding, as far as class `rbd` speaks it.
//!
//! All integers are little-endian; a text is a u32 length and its bytes; a
//! versioned struct is version, lowest compatible version, and a u32 length
//! behind which a reader skips what a newer writer added (`ENCODE_START` in
//! Ceph's `include/encoding.h`). What a reader gets wrong: the length counts
//! what follows it, and a decoder must end where it says, not where its own
//! fields end.

use std::time::Duration;

/// The bytes end early, or are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// The result of decoding.
pub(super) type Decoded<T> = std::result::Result<T, Malformed>;

/// Builds an encoded value.
#[derive(Debug, Default)]
pub(super) struct Encoder(Vec<u8>);

impl Encoder {
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A length; nothing that we encode comes near 4 GiB.
    fn length(self, length: usize) -> Self {
        self.u32(u32::try_from(length).unwrap_or(u32::MAX))
    }

    pub fn bytes(mut self, value: &[u8]) -> Self {
        self = self.length(value.len());
        self.0.extend_from_slice(value);
        self
    }

    pub fn text(self, value: &str) -> Self {
        self.bytes(value.as_bytes())
    }

    /// `utime_t`: seconds and nanoseconds since 1970.
    pub fn time(self, since_epoch: Duration) -> Self {
        self.u32(u32::try_from(since_epoch.as_secs()).unwrap_or(u32::MAX)).u32(since_epoch.subsec_nanos())
    }

    /// `map<string, string>`.
    pub fn map<'a>(self, pairs: impl ExactSizeIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let start = self.length(pairs.len());
        pairs.fold(start, |encoder, (key, value)| encoder.text(key).bytes(value))
    }

    /// A versioned struct with these contents.
    pub fn versioned(self, version: u8, compatible: u8, contents: Self) -> Self {
        self.u8(version).u8(compatible).bytes(&contents.0)
    }

    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// An encoded text, the commonest argument of all.
pub(super) fn text(value: &str) -> Vec<u8> {
    Encoder::default().text(value).finish()
}

/// Takes an encoded value apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decoder<'a>(&'a [u8]);

/// The version numbers of a struct, and a decoder of its contents.
pub(super) struct Versioned<'a> {
    pub version: u8,
    pub compatible: u8,
    pub contents: Decoder<'a>,
}

impl<'a> Decoder<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn take(&mut self, length: usize) -> Decoded<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    pub fn u8(&mut self) -> Decoded<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Decoded<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Decoded<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn i64(&mut self) -> Decoded<i64> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub fn bytes(&mut self) -> Decoded<&'a [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).map_err(|_| Malformed)?)
    }

    pub fn text(&mut self) -> Decoded<String> {
        Ok(String::from_utf8_lossy(self.bytes()?).into_owned())
    }

    pub fn time(&mut self) -> Decoded<Duration> {
        let (seconds, nanoseconds) = (self.u32()?, self.u32()?);
        if nanoseconds >= 1_000_000_000 {
            return Err(Malformed);
        }
        Ok(Duration::new(seconds.into(), nanoseconds))
    }

    pub fn versioned(&mut self) -> Decoded<Versioned<'a>> {
        let (version, compatible) = (self.u8()?, self.u8()?);
        Ok(Versioned { version, compatible, contents: Self(self.bytes()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_its_length_and_its_bytes() {
        assert_eq!(text("enc"), b"\x03\0\0\0enc");
        assert_eq!(Decoder::new(b"\x03\0\0\0encx").text(), Ok("enc".to_owned()));
    }

    #[test]
    fn a_map_counts_its_pairs() {
        let map = Encoder::default().map([("a", b"1".as_slice()), ("b", b"")].into_iter()).finish();
        assert_eq!(map, b"\x02\0\0\0\x01\0\0\0a\x01\0\0\x001\x01\0\0\0b\0\0\0\0");
    }

    #[test]
    fn what_ends_early_is_malformed_and_a_newer_tail_is_skipped() {
        assert_eq!(Decoder::new(b"\x04\0\0\0enc").text(), Err(Malformed));
        assert_eq!(Decoder::new(b"\xff\xff\xff\xff").bytes(), Err(Malformed));
        let mut newer = Decoder::new(b"\x09\x01\x03\0\0\0\x07xy\x2a");
        let mut inner = newer.versioned().unwrap();
        assert_eq!((inner.version, inner.contents.u8()), (9, Ok(7)));
        assert_eq!(newer.u8(), Ok(0x2a));
    }
}
