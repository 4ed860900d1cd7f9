//! HPACK's Huffman code, undone (RFC 7541, 5.2 and appendix B).
//!
//! Easily missed: the code is canonical. How many bits each byte has says all of it,
//! so there is no table of codes to get wrong.

/// Undoes the code (RFC 7541, 5.2 and appendix B).
pub(super) fn decode(coded: &[u8]) -> super::Result<Vec<u8>> {
    let code = &*HUFFMAN;
    let mut text = Vec::with_capacity(coded.len() * 8 / 5);
    let (mut bits, mut length) = (0_u32, 0_usize);
    for byte in coded {
        for shift in (0..8).rev() {
            bits = bits << 1 | u32::from(byte >> shift & 1);
            length += 1;
            let Some(symbol) = code.symbol(bits, length) else { continue };
            text.push(u8::try_from(symbol).map_err(|_| "the end mark inside a text")?);
            (bits, length) = (0, 0);
        }
    }
    // What is left must be the begin of the end mark, which is all ones.
    if length > 7 || bits != (1 << length) - 1 {
        return Err("wrong padding of a text");
    }
    Ok(text)
}

/// The canonical code in the form in which one bit more is one step more.
struct Huffman {
    /// Of each length: its first code, and where its symbols begin.
    first: [(u32, usize); 32],
    /// How many codes of each length there are.
    count: [usize; 32],
    /// Ordered by length of their codes, then by value.
    symbols: Vec<u16>,
}

static HUFFMAN: std::sync::LazyLock<Huffman> = std::sync::LazyLock::new(|| {
    let mut symbols: Vec<u16> = (0..=256).collect();
    symbols.sort_by_key(|symbol| CODE_LENGTHS[usize::from(*symbol)]);
    let mut count = [0; 32];
    for length in CODE_LENGTHS {
        count[usize::from(length)] += 1;
    }
    let mut first = [(0, 0); 32];
    let (mut code, mut begin) = (0_u32, 0);
    for length in 1..=30 {
        code <<= 1;
        first[length] = (code, begin);
        begin += count[length];
        // Lossless: there are 257 codes.
        code += count[length] as u32;
    }
    Huffman { first, count, symbols }
});

impl Huffman {
    /// The symbol of a code, if these bits are one. No code is longer than 30 bits,
    /// and 30 ones are a code: nobody comes here with more.
    fn symbol(&self, bits: u32, length: usize) -> Option<u16> {
        let (first, begin) = self.first.get(length)?;
        let offset = bits.checked_sub(*first)? as usize;
        (offset < self.count[length]).then(|| self.symbols.get(begin + offset).copied())?
    }
}

/// RFC 7541, appendix B: how many bits the code of each byte has, and of the end mark.
const CODE_LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7,
    15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24,
    23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26,
    26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20,
    21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26, 30,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_code() {
        // All 256 codes in a row, made from the definition: shorter first, then by value.
        let code = &*HUFFMAN;
        let (mut bits, mut used) = (Vec::new(), 0);
        for symbol in 0..256_u16 {
            let length = usize::from(CODE_LENGTHS[usize::from(symbol)]);
            let (first, begin) = code.first[length];
            let rank = code.symbols[begin..].iter().position(|other| *other == symbol).unwrap();
            let value = first + u32::try_from(rank).unwrap();
            for shift in (0..length).rev() {
                if used % 8 == 0 {
                    bits.push(0_u8);
                }
                *bits.last_mut().unwrap() |= ((value >> shift & 1) as u8) << (7 - used % 8);
                used += 1;
            }
        }
        while used % 8 != 0 {
            *bits.last_mut().unwrap() |= 1 << (7 - used % 8);
            used += 1;
        }
        assert_eq!(decode(&bits).unwrap(), (0..=255).collect::<Vec<u8>>());
    }
}
