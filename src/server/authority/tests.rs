//! The filter with raw bytes; `tests/process.rs` has the same with a whole client and the program.

use proptest::prelude::*;

use super::*;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, stream];
    frame.extend_from_slice(payload);
    frame
}

fn rewrite(bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::new();
    Rewriter::new().feed(bytes, &mut out).map(|()| out)
}

/// `:method POST`, `:authority <text>` with incremental indexing.
fn block(authority: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x41, u8::try_from(authority.len()).unwrap()];
    block.extend_from_slice(authority.as_bytes());
    block
}

/// The headers of a frame that the filter wrote, by a decoder whose table was never filled.
fn headers(frame: &[u8], skip: usize) -> Vec<(String, String)> {
    let headers = hpack::Decoder::new(1 << 20).decode(&frame[HEADER + skip..]).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    headers.into_iter().map(|(name, value)| (text(name), text(value))).collect()
}

fn call(authority: &str) -> Vec<(String, String)> {
    vec![(":method".into(), "POST".into()), (":authority".into(), authority.into())]
}

#[test]
fn a_path_becomes_localhost_and_an_authority_stays() {
    for (given, seen) in [
        ("/csi/csi.sock", "localhost"),
        ("%2Fcsi%2Fcsi.sock", "localhost"),
        ("", "localhost"),
        ("localhost", "localhost"),
        ("10.0.0.1:443", "10.0.0.1:443"),
    ] {
        let bytes = [PREFACE, &frame(HEADERS, END_HEADERS, 1, &block(given))].concat();
        let out = rewrite(&bytes).unwrap();
        assert_eq!(&out[..PREFACE.len()], PREFACE);
        assert_eq!(headers(&out[PREFACE.len()..], 0), call(seen), "{given}");
    }
}

#[test]
fn an_authority_out_of_the_table_is_replaced_too() {
    let first = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block("/csi.sock"));
    let second = frame(HEADERS, END_HEADERS, 3, &[0x83, 0xbe]);
    let out = rewrite(&[PREFACE, &first, &second].concat()).unwrap();
    let length = out.len() - PREFACE.len();
    let (first, second) = out[PREFACE.len()..].split_at(length / 2);
    assert_eq!((headers(first, 0), headers(second, 0)), (call("localhost"), call("localhost")));
    assert_eq!((first[4], second[4]), (END_HEADERS | END_STREAM, END_HEADERS));
    assert_eq!((first[8], second[8]), (1, 3));
}

#[test]
fn padding_goes_priority_stays_and_continuations_are_joined() {
    let block = block("/csi/csi.sock");
    let mut payload = vec![3];
    payload.extend([0, 0, 0, 0, 15]);
    payload.extend(&block[..4]);
    payload.extend([0; 3]);
    let begin = frame(HEADERS, PADDED | PRIORITY | END_STREAM, 5, &payload);
    let middle = frame(CONTINUATION, 0, 5, &[]);
    let end = frame(CONTINUATION, END_HEADERS, 5, &block[4..]);
    let data = frame(0, 1, 5, b"abc");
    let out = rewrite(&[PREFACE, &begin, &middle, &end, &data].concat()).unwrap();
    let out = out[PREFACE.len()..].strip_suffix(&data[..]).unwrap();
    assert_eq!((out[3], out[4]), (HEADERS, END_STREAM | PRIORITY | END_HEADERS));
    assert_eq!(out[HEADER..HEADER + 5], [0, 0, 0, 0, 15]);
    assert_eq!(headers(out, 5), call("localhost"));
}

#[test]
fn what_is_malformed_ends_the_connection() {
    let begin = frame(HEADERS, 0, 1, &block("/a"));
    for (bytes, why) in [
        ([&begin[..], &frame(0, 0, 1, b"x")].concat(), "not continued"),
        ([&begin[..], &frame(CONTINUATION, END_HEADERS, 3, b"")].concat(), "not continued"),
        (frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0x83]), "too short"),
        (frame(HEADERS, END_HEADERS | PRIORITY, 1, &[0x83]), "too short"),
        (frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff]), "integer"),
        (frame(HEADERS, 0, 1, &[0; LARGEST_FRAME + 1]), "too large"),
        ([frame(HEADERS, 0, 1, &[0; 16_000]), frame(CONTINUATION, 0, 1, &[0; 1000])].concat(), "too long"),
    ] {
        let error = rewrite(&[PREFACE, &bytes].concat()).unwrap_err();
        assert!(error.contains(why), "{error}, not {why}");
    }
}

#[test]
fn another_protocol_passes_so_that_h2_can_refuse_it() {
    let bytes = b"PRI * HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut out = Vec::new();
    let mut rewriter = Rewriter::new();
    bytes.chunks(7).for_each(|part| rewriter.feed(part, &mut out).unwrap());
    assert_eq!(out, bytes);
}

#[test]
fn headers_that_grow_beyond_a_frame_are_continued() {
    let block = Block {
        stream: [0, 0, 0, 1],
        flags: END_STREAM | PRIORITY,
        priority: vec![0; 5],
        fragment: vec![7; 2 * LARGEST_FRAME],
    };
    let mut out = Vec::new();
    block.write(&mut out);
    let mut seen = Vec::new();
    let mut rest = &out[..];
    while !rest.is_empty() {
        let length = usize::from(rest[1]) << 8 | usize::from(rest[2]);
        seen.push((rest[3], rest[4], length));
        rest = &rest[HEADER + length..];
    }
    let expected = [
        (HEADERS, END_STREAM | PRIORITY, LARGEST_FRAME),
        (CONTINUATION, 0, LARGEST_FRAME),
        (CONTINUATION, END_HEADERS, 5),
    ];
    assert_eq!(seen, expected);
}

/// A connection of several calls in all forms.
fn connection() -> Vec<u8> {
    let long = block(&"/very/long/path".repeat(8));
    let parts = [
        PREFACE.to_vec(),
        frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]),
        frame(HEADERS, END_HEADERS, 1, &block("/csi/csi.sock")),
        frame(0, 1, 1, &[9; 3000]),
        frame(HEADERS, 0, 3, &long[..20]),
        frame(CONTINUATION, END_HEADERS, 3, &long[20..]),
        frame(0, 0, 3, b""),
        frame(HEADERS, END_HEADERS | PADDED, 5, &[2, 0x83, 0xbe, 0, 0]),
        frame(6, 0, 0, &[0; 8]),
    ];
    parts.concat()
}

proptest! {
    #[test]
    fn however_the_bytes_arrive_the_result_is_the_same(
        cuts in proptest::collection::vec(0..connection().len(), 0..60)
    ) {
        let bytes = connection();
        let mut cuts = cuts;
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut rewriter = Rewriter::new();
        let mut out = Vec::new();
        for pair in cuts.windows(2) {
            rewriter.feed(&bytes[pair[0]..pair[1]], &mut out).unwrap();
        }
        prop_assert_eq!(out, rewrite(&bytes).unwrap());
    }

    #[test]
    fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = rewrite(&[PREFACE, &bytes].concat());
        let _ = rewrite(&[PREFACE, &frame(HEADERS, END_HEADERS, 1, &bytes)].concat());
    }
}
