//! The decoder and the encoder, against RFC 7541's examples and random bytes.

use proptest::prelude::*;

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

fn texts(headers: Vec<Header>) -> Vec<(String, String)> {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    headers.into_iter().map(|(name, value)| (text(name), text(value))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// RFC 7541, C.4: three requests of one connection, Huffman coded, by the dynamic table.
#[test]
fn the_examples_of_the_rfc() {
    let mut decoder = Decoder::new(4096);
    let first = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
    let block = hex("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff");
    assert_eq!(texts(decoder.decode(&block).unwrap()), pairs(&first));
    let block = hex("8286 84be 5886 a8eb 1064 9cbf");
    let second = [&first[..], &[("cache-control", "no-cache")]].concat();
    assert_eq!(texts(decoder.decode(&block).unwrap()), pairs(&second));
    let block = hex("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf");
    let third = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ];
    assert_eq!(texts(decoder.decode(&block).unwrap()), pairs(&third));
    assert_eq!(decoder.size, 164);
}

#[test]
fn a_smaller_table_evicts_and_a_larger_one_is_refused() {
    let mut decoder = Decoder::new(4096);
    decoder.decode(&hex("4001 6101 62 4001 6301 64")).unwrap();
    assert_eq!(decoder.entries.len(), 2);
    // 31 + 16: room for one of the two entries of 34 bytes each.
    decoder.decode(&hex("3f10 be")).unwrap();
    assert_eq!(decoder.entries.len(), 1);
    assert!(decoder.decode(&hex("bf")).is_err());
    assert!(Decoder::new(4096).decode(&hex("3fe2 1f")).is_err());
}

#[test]
fn a_bomb_of_indexes_is_refused() {
    let mut decoder = Decoder::new(16 << 10);
    let mut bomb = Vec::new();
    bomb.extend([0x40, 1, b'a']);
    encode_length(4000, &mut bomb);
    bomb.extend(std::iter::repeat_n(b'x', 4000));
    bomb.extend([0xbe; 100]);
    assert_eq!(decoder.decode(&bomb).unwrap_err(), "too many or too long headers");
}

proptest! {
    #[test]
    fn no_bytes_break_it(block in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Decoder::new(4096).decode(&block);
    }

    #[test]
    fn what_is_encoded_is_decoded(
        name in proptest::collection::vec(any::<u8>(), 0..300),
        value in proptest::collection::vec(any::<u8>(), 0..20_000),
    ) {
        let header = (name, value);
        let mut block = Vec::new();
        encode(&header, &mut block);
        prop_assert_eq!(Decoder::new(1 << 20).decode(&block).unwrap(), vec![header]);
    }
}
