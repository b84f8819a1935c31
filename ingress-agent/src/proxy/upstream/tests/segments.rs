//! However a response is cut into segments, it reads the same.

use proptest::prelude::*;

use super::chunked::{Chunked, Piece};
use super::response_head::{Asked, HeadReader, ResponseHead, take_head};
use super::*;
use bytes::BytesMut;

type Read = Result<(ResponseHead, Vec<u8>, Option<HeaderMap>, Vec<u8>), &'static str>;

/// Feeds the segments one by one to the head parser and the chunk decoder.
fn read(segments: &[&[u8]]) -> Option<Read> {
    let asked = Asked::new(&Method::GET, false);
    let (mut buffer, mut end) = (BytesMut::new(), HeadReader::default());
    let (mut head, mut chunked, mut body, mut trailers) = (None, Chunked::new(), Vec::new(), None);
    let mut done = false;
    for segment in segments {
        buffer.extend_from_slice(segment);
        if head.is_none() {
            match take_head(&mut buffer, &mut end, asked) {
                Ok(taken) => head = taken,
                Err(error) => return Some(Err(error)),
            }
        }
        while head.is_some() && !done {
            match chunked.next(&mut buffer) {
                Ok(Piece::More) => break,
                Ok(Piece::Data(data)) => body.extend_from_slice(&data),
                Ok(Piece::Trailers(fields)) => trailers = Some(fields),
                Ok(Piece::End) => done = true,
                Err(error) => return Some(Err(error)),
            }
        }
    }
    done.then(|| head.map(|head| Ok((head, body, trailers, buffer.to_vec()))))
        .flatten()
}

fn cut<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

fn response_bytes() -> impl Strategy<Value = Vec<u8>> {
    let chunks = prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..5);
    (chunks, any::<bool>(), "[ -~]{0,20}").prop_map(|(chunks, trailers, value)| {
        let mut bytes =
            format!("HTTP/1.1 200 OK\r\nA: {value}\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
        for chunk in chunks {
            bytes.extend(format!("{:x};e\r\n", chunk.len()).into_bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n");
        if trailers {
            bytes.extend(b"X-Sum: 1\r\n");
        }
        bytes.extend(b"\r\n");
        bytes
    })
}

proptest! {
    #[test]
    fn a_response_reads_the_same_however_it_is_cut(bytes in response_bytes(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20)) {
        let whole = read(&[&bytes]);
        prop_assert!(whole.as_ref().is_some_and(Result::is_ok));
        prop_assert_eq!(&whole, &read(&cut(&bytes, &cuts)));
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(&whole, &read(&single));
    }

    #[test]
    fn a_damaged_response_is_judged_the_same_however_it_is_cut(
        mut bytes in response_bytes(),
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let place = place.index(bytes.len());
        bytes[place] = byte;
        let (whole, parts) = (read(&[&bytes]), read(&cut(&bytes, &cuts)));
        // Where a fault is told may differ in words; whether it is told may not.
        match (whole, parts) {
            (Some(Err(_)), Some(Err(_))) => {}
            (whole, parts) => prop_assert_eq!(whole, parts),
        }
    }
}
