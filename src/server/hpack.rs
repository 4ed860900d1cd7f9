//! HPACK, as much of it as the filter for `:authority` needs (RFC 7541).
//!
//! Lives here: a decoder with its dynamic table, and an encoder that uses no
//! table at all. Not here: frames (`authority`).
//!
//! Ours, because the crates do not fit: `hpack` and its fork panic on a
//! truncated table size, none bounds what a few bytes may unfold to (an index of
//! one byte stands for 4 KiB), and the one table that is hard to get right is
//! 257 code lengths: HPACK's Huffman code is canonical, so they define it.

use std::collections::VecDeque;

use table::STATIC_TABLE;

mod huffman;
mod table;

/// A header, or the name of what the block of headers breaks.
pub type Result<T> = std::result::Result<T, &'static str>;

/// A header's name and value.
pub type Header = (Vec<u8>, Vec<u8>);

/// The table that a server which says nothing of it keeps (RFC 9113, 6.5.2).
/// h2 says nothing of it, so clients fill no more.
const TABLE_SIZE: usize = 4096;
/// What an entry counts beside its texts (RFC 7541, 4.1).
const ENTRY_OVERHEAD: usize = 32;

/// Turns blocks of headers into headers; one for each connection.
pub struct Decoder {
    /// The newest entry first.
    entries: VecDeque<Header>,
    size: usize,
    limit: usize,
    /// How much one block may unfold to, in bytes of names and values.
    most: usize,
}

impl Decoder {
    /// A decoder that refuses blocks of more than `most` bytes of names and values.
    pub fn new(most: usize) -> Self {
        Self { entries: VecDeque::new(), size: 0, limit: TABLE_SIZE, most }
    }

    /// The headers of one whole block.
    ///
    /// # Errors
    /// What is wrong with the block; the decoder is of no use afterwards.
    pub fn decode(&mut self, mut block: &[u8]) -> Result<Vec<Header>> {
        let mut headers = Vec::new();
        let mut unfolded = 0;
        while let Some(&first) = block.first() {
            let header = match first {
                0x80.. => self.entry(integer(&mut block, 7)?)?,
                0x40.. => {
                    let header = self.literal(&mut block, 6)?;
                    self.insert(header.clone());
                    header
                }
                0x20.. => {
                    let limit = integer(&mut block, 5)?;
                    if limit > TABLE_SIZE || !headers.is_empty() {
                        return Err("a table size that is too large or not in front");
                    }
                    self.limit = limit;
                    self.evict();
                    continue;
                }
                _ => self.literal(&mut block, 4)?,
            };
            unfolded += header.0.len() + header.1.len() + ENTRY_OVERHEAD;
            if unfolded > self.most {
                return Err("too many or too long headers");
            }
            headers.push(header);
        }
        Ok(headers)
    }

    fn literal(&self, block: &mut &[u8], prefix: u8) -> Result<Header> {
        let name = match integer(block, prefix)? {
            0 => string(block)?,
            index => self.entry(index)?.0,
        };
        Ok((name, string(block)?))
    }

    fn entry(&self, index: usize) -> Result<Header> {
        let index = index.checked_sub(1).ok_or("index 0")?;
        if let Some((name, value)) = STATIC_TABLE.get(index) {
            return Ok((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        }
        self.entries.get(index - STATIC_TABLE.len()).cloned().ok_or("an index beyond the table")
    }

    fn insert(&mut self, header: Header) {
        self.size += entry_size(&header);
        self.entries.push_front(header);
        self.evict();
    }

    fn evict(&mut self) {
        while self.size > self.limit {
            let Some(oldest) = self.entries.pop_back() else { break };
            self.size -= entry_size(&oldest);
        }
    }
}

fn entry_size(header: &Header) -> usize {
    header.0.len() + header.1.len() + ENTRY_OVERHEAD
}

/// Takes an integer whose first byte has so many bits for it (RFC 7541, 5.1).
fn integer(block: &mut &[u8], prefix: u8) -> Result<usize> {
    let mut next = || {
        let (&first, rest) = block.split_first().ok_or("a truncated integer")?;
        *block = rest;
        Ok::<usize, &'static str>(usize::from(first))
    };
    let mask = (1 << prefix) - 1;
    let mut value = next()? & mask;
    if value < mask {
        return Ok(value);
    }
    // Four bytes are 28 bits: more than any length or index that is allowed here.
    for shift in [0, 7, 14, 21] {
        let byte = next()?;
        value += (byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("an integer that is too large")
}

/// Takes a text (RFC 7541, 5.2).
fn string(block: &mut &[u8]) -> Result<Vec<u8>> {
    let is_coded = block.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or("a truncated text")?;
    *block = rest;
    if is_coded { huffman::decode(text) } else { Ok(text.to_vec()) }
}

/// Appends a header as a literal without indexing: neither side's table changes.
pub fn encode((name, value): &Header, block: &mut Vec<u8>) {
    block.push(0);
    for text in [name, value] {
        encode_length(text.len(), block);
        block.extend_from_slice(text);
    }
}

fn encode_length(length: usize, block: &mut Vec<u8>) {
    let Some(mut rest) = length.checked_sub(0x7f) else {
        // Less than 127, so the cast keeps it.
        block.push(length as u8);
        return;
    };
    block.push(0x7f);
    while rest >= 0x80 {
        block.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
}

#[cfg(test)]
mod tests;
