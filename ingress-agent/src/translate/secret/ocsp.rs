//! An OCSP response that a Secret brings along (RFC 6960), read as far as its worth as a staple needs: whether it speaks of this certificate,
//! what it says, and until when. Who signed it is the client's to judge.
//!
//! One for another certificate, or one that is too old, makes clients end the handshake: without any, most go on.

use aws_lc_rs::digest;
use x509_parser::prelude::{ASN1Time, FromDer as _, X509Certificate};

/// Responses have about 500 bytes, with the responder's own chain some kilobytes; every full handshake carries it.
const MAX_BYTES: usize = 16 * 1024;

/// DER's tags (X.690, 8.1.2), as the response uses them.
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const GENERALIZED_TIME: u8 = 0x18;
const EXPLICIT_0: u8 = 0xa0;
/// CertStatus: `good` and `revoked`; the third is `unknown`.
const GOOD: u8 = 0x80;
const REVOKED: u8 = 0xa1;

const SUCCESSFUL: &[u8] = &[0];
/// id-pkix-ocsp-basic, 1.3.6.1.5.5.7.48.1.1.
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
const SHA1: &[u8] = &[0x2b, 0x0e, 3, 2, 0x1a];
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];

/// A response that fits its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Staple {
    pub(super) bytes: Vec<u8>,
    /// `nextUpdate`, in seconds since 1970: clients refuse an older one.
    pub(super) until: Option<i64>,
    pub(super) is_revoked: bool,
}

/// The response as it will be stapled, or what is wrong with it.
pub(super) fn staple(bytes: &[u8], leaf: &X509Certificate<'_>) -> Result<Staple, String> {
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
    let answer = match element(response) {
        Some((ENUMERATED, SUCCESSFUL, answer @ [_, ..])) => answer,
        Some((ENUMERATED, _, _)) => {
            return Err("tls.ocsp-staple is the responder's refusal, not an answer".to_owned());
        }
        _ => return Err("tls.ocsp-staple is not an OCSP response (RFC 6960, 4.2.1)".to_owned()),
    };
    let singles = singles(answer).ok_or("tls.ocsp-staple is not a basic OCSP response (RFC 6960, 4.2.1)")?;
    let single = find(singles, leaf)
        .ok_or("tls.ocsp-staple cannot be read to its end (RFC 6960, 4.2.1)")?
        .ok_or("tls.ocsp-staple is about another certificate than tls.crt")?;
    match single.status {
        GOOD | REVOKED => Ok(Staple {
            bytes: bytes.to_vec(),
            until: single.until,
            is_revoked: single.status == REVOKED,
        }),
        _ => Err("tls.ocsp-staple says that its responder does not know the certificate".to_owned()),
    }
}

/// The `responses` of ResponseBytes, BasicOCSPResponse and ResponseData.
fn singles(answer: &[u8]) -> Option<&[u8]> {
    let (bytes, []) = expect(EXPLICIT_0, answer)? else {
        return None;
    };
    let (bytes, []) = expect(SEQUENCE, bytes)? else {
        return None;
    };
    let (kind, bytes) = expect(OBJECT_IDENTIFIER, bytes)?;
    let (basic, []) = expect(OCTET_STRING, bytes)? else {
        return None;
    };
    let (basic, []) = expect(SEQUENCE, basic)? else {
        return None;
    };
    let (data, _signature) = expect(SEQUENCE, basic)?;
    // version DEFAULT v1, which DER leaves out; then responderID, by name or by key.
    let (_responder, data) = match element(data)? {
        (EXPLICIT_0, _version, data) => element(data).map(|(tag, _, data)| (tag, data))?,
        (tag, _, data) => (tag, data),
    };
    let (_produced, data) = expect(GENERALIZED_TIME, data)?;
    let (singles, _extensions) = expect(SEQUENCE, data)?;
    (kind == BASIC).then_some(singles)
}

struct Single {
    status: u8,
    until: Option<i64>,
}

/// The one about this certificate, if there is one; nothing at all where they can't be read.
fn find(mut singles: &[u8], leaf: &X509Certificate<'_>) -> Option<Option<Single>> {
    while !singles.is_empty() {
        let (single, rest) = expect(SEQUENCE, singles)?;
        singles = rest;
        let (id, single) = expect(SEQUENCE, single)?;
        if !is_about(id, leaf)? {
            continue;
        }
        let (status, _, single) = element(single)?;
        let (_this_update, single) = expect(GENERALIZED_TIME, single)?;
        let until = match element(single) {
            Some((EXPLICIT_0, time, _)) => Some(ASN1Time::from_der(time).ok()?.1.timestamp()),
            _ => None,
        };
        return Some(Some(Single { status, until }));
    }
    Some(None)
}

/// CertID: the issuer's name goes by its hash, and counts where the hash is one of those in use.
fn is_about(id: &[u8], leaf: &X509Certificate<'_>) -> Option<bool> {
    let (algorithm, id) = expect(SEQUENCE, id)?;
    let (algorithm, _parameters) = expect(OBJECT_IDENTIFIER, algorithm)?;
    let (name_hash, id) = expect(OCTET_STRING, id)?;
    let (_key_hash, id) = expect(OCTET_STRING, id)?;
    let (serial, []) = expect(INTEGER, id)? else {
        return None;
    };
    let algorithm = match algorithm {
        SHA1 => Some(&digest::SHA1_FOR_LEGACY_USE_ONLY),
        SHA256 => Some(&digest::SHA256),
        _ => None,
    };
    let is_issuer = algorithm
        .is_none_or(|algorithm| digest::digest(algorithm, leaf.issuer().as_raw()).as_ref() == name_hash);
    Some(is_issuer && serial == leaf.raw_serial())
}

/// The content of the first element, which has that tag, and what follows.
fn expect(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, content, after) = element(der)?;
    (found == tag).then_some((content, after))
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

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let length = u16::try_from(content.len()).unwrap();
        let head = match length {
            0..=0x7f => vec![tag, u8::try_from(length).unwrap()],
            0x80..=0xff => vec![tag, 0x81, u8::try_from(length).unwrap()],
            _ => [&[tag, 0x82][..], &length.to_be_bytes()].concat(),
        };
        [head, content].concat()
    }

    /// The response's parts that matter, and room for more.
    #[derive(Clone, Copy)]
    struct About<'a> {
        hash: &'a [u8],
        issuer: &'a [u8],
        serial: &'a [u8],
        status: &'a [u8],
        until: Option<&'a str>,
    }

    impl About<'_> {
        fn single(&self) -> Vec<u8> {
            let algorithm = der(SEQUENCE, &[&der(OBJECT_IDENTIFIER, &[self.hash]), &[5, 0]]);
            let name = der(OCTET_STRING, &[self.issuer]);
            let key = der(OCTET_STRING, &[&[7; 20]]);
            let id = der(
                SEQUENCE,
                &[&algorithm, &name, &key, &der(INTEGER, &[self.serial])],
            );
            let from = der(GENERALIZED_TIME, &[b"20260101000000Z"]);
            let until = self.until.map(|until| {
                let time = der(GENERALIZED_TIME, &[until.as_bytes()]);
                der(EXPLICIT_0, &[&time])
            });
            der(SEQUENCE, &[&id, self.status, &from, &until.unwrap_or_default()])
        }
    }

    fn response(singles: &[Vec<u8>], room: usize) -> Vec<u8> {
        let responder = der(0xa2, &[&der(OCTET_STRING, &[&[1; 20]])]);
        let produced = der(GENERALIZED_TIME, &[b"20260101000000Z"]);
        let data = der(
            SEQUENCE,
            &[&responder, &produced, &der(SEQUENCE, &[&singles.concat()])],
        );
        let basic = der(SEQUENCE, &[&data, &der(OCTET_STRING, &[&vec![0; room]])]);
        let bytes = der(
            SEQUENCE,
            &[&der(OBJECT_IDENTIFIER, &[BASIC]), &der(OCTET_STRING, &[&basic])],
        );
        der(SEQUENCE, &[&[ENUMERATED, 1, 0], &der(EXPLICIT_0, &[&bytes])])
    }

    fn leaf() -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.serial_number = Some(rcgen::SerialNumber::from(vec![0x0a, 0x0b]));
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn name_hash(leaf: &X509Certificate<'_>, algorithm: &'static digest::Algorithm) -> Vec<u8> {
        digest::digest(algorithm, leaf.issuer().as_raw())
            .as_ref()
            .to_vec()
    }

    #[test]
    fn a_staple_is_one_successful_response_in_der_about_its_certificate_and_nothing_else() {
        let certificate = leaf();
        let (_, leaf) = X509Certificate::from_der(&certificate).unwrap();
        let issuer = name_hash(&leaf, &digest::SHA1_FOR_LEGACY_USE_ONLY);
        let about = About {
            hash: SHA1,
            issuer: &issuer,
            serial: &[0x0a, 0x0b],
            status: &[GOOD, 0],
            until: Some("20260108000000Z"),
        };
        let good = response(&[about.single()], 64);
        let read = staple(&good, &leaf).unwrap();
        assert_eq!(
            read,
            Staple {
                bytes: good.clone(),
                until: Some(1_767_830_400),
                is_revoked: false
            }
        );
        let sha256 = name_hash(&leaf, &digest::SHA256);
        let newer = About {
            hash: SHA256,
            issuer: &sha256,
            until: None,
            ..about
        };
        assert_eq!(
            staple(&response(&[newer.single()], 0), &leaf).unwrap().until,
            None
        );
        let revoked = About {
            status: &[REVOKED, 0],
            ..about
        };
        assert!(
            staple(&response(&[revoked.single()], 0), &leaf)
                .unwrap()
                .is_revoked
        );

        let refused = |bytes: &[u8]| staple(bytes, &leaf).unwrap_err();
        for other in [
            About {
                serial: &[0x0a, 0x0c],
                ..about
            },
            About {
                issuer: &[9; 20],
                ..about
            },
        ] {
            let why = refused(&response(&[other.single()], 64));
            assert!(why.contains("about another certificate"), "{why}");
            assert!(staple(&response(&[other.single(), about.single()], 64), &leaf).is_ok());
        }
        let unknown = About {
            status: &[0x82, 0],
            ..about
        };
        assert!(refused(&response(&[unknown.single()], 0)).contains("does not know"));
        assert!(refused(&response(&[about.single()], MAX_BYTES)).contains("at most"));
        assert!(refused(&[0x30, 0x03, 0x0a, 0x01, 0x06]).contains("refusal"));
        let more = [&good[..], &[0]].concat();
        let indefinite = [0x30, 0x80, 0x0a, 0x01, 0x00, 0x00, 0x00];
        let longer_than_needed = [0x30, 0x81, 0x07, 0x0a, 0x01, 0x00, 0xa0, 0x02, 0x30, 0x00];
        let empty = [0x30, 0x07, 0x0a, 0x01, 0x00, 0xa0, 0x02, 0x30, 0x00];
        for bad in [
            &b"\n"[..],
            b"rubbish",
            &more,
            &indefinite,
            &longer_than_needed,
            &empty,
        ] {
            assert!(refused(bad).contains("RFC 6960"), "{bad:?}");
        }
    }

    #[test]
    fn no_cut_and_no_other_byte_makes_the_reader_panic() {
        let certificate = leaf();
        let (_, leaf) = X509Certificate::from_der(&certificate).unwrap();
        let issuer = name_hash(&leaf, &digest::SHA1_FOR_LEGACY_USE_ONLY);
        let (serial, status) = (&[0x0a, 0x0b], &[GOOD, 0]);
        let until = Some("20260108000000Z");
        let about = About {
            hash: SHA1,
            issuer: &issuer,
            serial,
            status,
            until,
        };
        let good = response(&[about.single()], 8);
        for at in 0..good.len() {
            assert!(staple(&good[..at], &leaf).is_err());
            for byte in [0, 1, 0x7f, 0x80, 0x81, 0x82, 0x84, 0xff] {
                let mut bad = good.clone();
                bad[at] = byte;
                drop(staple(&bad, &leaf));
            }
        }
    }
}
