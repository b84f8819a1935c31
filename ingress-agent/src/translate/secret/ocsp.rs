//! An OCSP response that a Secret brings along (RFC 6960), looked at as far as its worth as a staple needs. Who signed it, and for which
//! certificate, is the client's to judge.

/// Responses have about 500 bytes, with the responder's own chain some kilobytes; every full handshake carries it.
const MAX_BYTES: usize = 16 * 1024;

const SEQUENCE: u8 = 0x30;
const ENUMERATED: u8 = 0x0a;
const SUCCESSFUL: &[u8] = &[0];

/// The response as it will be stapled, or what is wrong with it.
pub(super) fn staple(bytes: &[u8]) -> Result<Vec<u8>, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!(
            "tls.ocsp-staple has {} bytes; at most {MAX_BYTES} are sent in a handshake",
            bytes.len()
        ));
    }
    let response = match element(bytes) {
        Some((SEQUENCE, content, [])) => content,
        _ => return Err("tls.ocsp-staple is not one OCSP response in DER (RFC 6960, 4.2.1)".to_owned()),
    };
    match element(response) {
        Some((ENUMERATED, SUCCESSFUL, [_, ..])) => Ok(bytes.to_vec()),
        Some((ENUMERATED, _, _)) => {
            Err("tls.ocsp-staple is the responder's refusal, not an answer".to_owned())
        }
        _ => Err("tls.ocsp-staple is not an OCSP response (RFC 6960, 4.2.1)".to_owned()),
    }
}

/// Tag, content, and what follows (X.690, 8.1 and 10.1: definite lengths, as short as can be).
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => {
            let (&[length], rest) = rest.split_first_chunk()?;
            (length >= 0x80).then_some((usize::from(length), rest))?
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk()?;
            let length = usize::from(u16::from_be_bytes(*length));
            (length > 0xff).then_some((length, rest))?
        }
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_staple_is_one_successful_response_in_der_and_nothing_else() {
        let good = [0x30, 0x07, 0x0a, 0x01, 0x00, 0xa0, 0x02, 0x30, 0x00];
        assert_eq!(staple(&good).unwrap(), good);
        let long = |tail: usize| {
            let content = [&[0x0a, 1, 0, 0xa0][..], &vec![0; tail]].concat();
            let length = u16::try_from(content.len()).unwrap().to_be_bytes();
            [&[0x30, 0x82][..], &length, &content].concat()
        };
        assert!(staple(&long(1000)).is_ok());
        assert!(staple(&long(MAX_BYTES)).unwrap_err().contains("at most"));
        let refused = [0x30, 0x03, 0x0a, 0x01, 0x06];
        assert!(staple(&refused).unwrap_err().contains("refusal"));
        let cut = &good[..8];
        let more = [&good[..], &[0]].concat();
        let indefinite = [0x30, 0x80, 0x0a, 0x01, 0x00, 0x00, 0x00];
        let longer_than_needed = [&[0x30, 0x81, 0x07][..], &good[2..]].concat();
        for bad in [
            &b"\n"[..],
            b"rubbish",
            cut,
            &more,
            &indefinite,
            &longer_than_needed,
        ] {
            assert!(staple(bad).unwrap_err().contains("RFC 6960"), "{bad:?}");
        }
    }
}
