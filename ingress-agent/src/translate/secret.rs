//! A Secret's `tls.crt` and `tls.key` to a certificate that can be served, or a sentence that says what is wrong; `tls.ocsp-staple` goes with it.

mod ocsp;

use std::collections::BTreeMap;
use std::sync::Arc;

use ingress_core::resource::CertificateKey;
use k8s_openapi::api::core::v1::Secret;
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::Certificate;
use super::notes::Notes;
use super::tls::Answer;

/// Longer chains than this are not certificates of a site but somebody's whole trust store.
const LONGEST_CHAIN: usize = 16;
const SOON: i64 = 14 * 24 * 3600;

/// Parsed certificates by Secret, so that a change elsewhere parses none again, and a Secret that stops parsing
/// keeps its last good certificate.
#[derive(Default)]
pub(super) struct Shelf {
    before: BTreeMap<CertificateKey, Kept>,
    now: BTreeMap<CertificateKey, Kept>,
}

#[derive(Clone)]
struct Kept {
    /// What was parsed last.
    secret: Arc<Secret>,
    parsed: Result<Parsed, String>,
    last_good: Option<Parsed>,
}

#[derive(Clone, Debug)]
struct Parsed {
    certificate: Arc<Certificate>,
    not_before: i64,
    names_from_subject: bool,
    /// Why the certificate is served without its staple.
    bad_staple: Option<String>,
    staple: Option<Stapled>,
}

/// The certificate without its staple, for when that is too old.
#[derive(Clone, Debug)]
struct Stapled {
    bare: Arc<Certificate>,
    until: Option<i64>,
    is_revoked: bool,
}

impl Parsed {
    /// As it is served now: a staple that is too old makes clients end the handshake, none makes most of them go on.
    fn served(&self, now: i64) -> Arc<Certificate> {
        match &self.staple {
            Some(staple) if staple.is_over(now) => Arc::clone(&staple.bare),
            _ => Arc::clone(&self.certificate),
        }
    }
}

impl Stapled {
    fn is_over(&self, now: i64) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// Private keys stay out of every log, so of this too.
impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf")
            .field("secrets", &self.before.len())
            .finish_non_exhaustive()
    }
}

impl Shelf {
    /// Ends a translation: what it did not ask for is forgotten.
    pub(super) fn turn(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }
}

/// Reads a Secret, through the shelf.
pub(super) fn read(
    secret: &Arc<Secret>,
    key: CertificateKey,
    shelf: &mut Shelf,
    now_unix: i64,
    notes: &mut Notes,
) -> Answer {
    let kept = match shelf.before.remove(&key) {
        Some(kept) if Arc::ptr_eq(&kept.secret, secret) || same_content(&kept.secret, secret) => kept,
        before => parse_again(secret, before.and_then(|kept| kept.last_good)),
    };
    let answer = match (&kept.parsed, &kept.last_good) {
        (Ok(parsed), _) => {
            check_validity(parsed, now_unix, notes);
            check_type(secret, notes);
            Answer::Usable(key.clone(), parsed.served(now_unix))
        }
        (Err(why), Some(good)) => {
            let message = format!("{why}; the last certificate that worked stays in use");
            notes.error("data", "SecretUnusable", message);
            check_validity(good, now_unix, notes);
            Answer::Usable(key.clone(), good.served(now_unix))
        }
        (Err(why), None) => {
            notes.error("data", "SecretUnusable", why.clone());
            Answer::Unusable(why.clone())
        }
    };
    shelf.now.insert(key, kept);
    answer
}

fn parse_again(secret: &Arc<Secret>, last_good: Option<Parsed>) -> Kept {
    let parsed = parse(secret);
    Kept {
        secret: Arc::clone(secret),
        last_good: parsed.as_ref().ok().cloned().or(last_good),
        parsed,
    }
}

/// A relist makes new objects of the same content.
fn same_content(a: &Secret, b: &Secret) -> bool {
    a.data == b.data && a.string_data == b.string_data
}

fn check_type(secret: &Secret, notes: &mut Notes) {
    match secret.type_.as_deref() {
        None | Some("kubernetes.io/tls" | "Opaque" | "") => {}
        Some(other) => {
            let message =
                format!("is {other:?}; a certificate belongs in a Secret of type kubernetes.io/tls");
            notes.warning("type", "SecretType", message);
        }
    }
}

fn check_validity(parsed: &Parsed, now: i64, notes: &mut Notes) {
    let not_after = parsed.certificate.not_after;
    if not_after < now {
        let message = format!(
            "the certificate expired {} ago; clients will refuse it",
            span(now - not_after)
        );
        notes.error("data[tls.crt]", "CertificateExpired", message);
    } else if not_after - now < SOON {
        let message = format!("the certificate expires in {}", span(not_after - now));
        notes.warning("data[tls.crt]", "CertificateExpiresSoon", message);
    }
    if parsed.not_before > now {
        let message = format!(
            "the certificate becomes valid only in {}",
            span(parsed.not_before - now)
        );
        notes.error("data[tls.crt]", "CertificateNotYetValid", message);
    }
    if parsed.names_from_subject {
        let message =
            "the certificate has no subject alternative name, only a common name; browsers will refuse it";
        notes.warning("data[tls.crt]", "CertificateWithoutNames", message.to_owned());
    }
    check_staple(parsed, now, notes);
}

fn check_staple(parsed: &Parsed, now: i64, notes: &mut Notes) {
    const FIELD: &str = "data[tls.ocsp-staple]";
    if let Some(why) = &parsed.bad_staple {
        let message = format!("{why}; the certificate is served without it");
        notes.warning(FIELD, "OcspStapleUnusable", message);
    }
    let Some(staple) = &parsed.staple else {
        return;
    };
    if staple.is_revoked {
        let message = "the OCSP response says that the certificate is revoked; clients will refuse it";
        notes.error(FIELD, "CertificateRevoked", message.to_owned());
    }
    if let Some(until) = staple.until.filter(|_| staple.is_over(now)) {
        let message = format!(
            "the OCSP response was good until {} ago (nextUpdate); the certificate is served without it",
            span(now - until)
        );
        notes.warning(FIELD, "OcspStapleExpired", message);
    }
}

/// Coarse, so that the sentence, and with it the Diagnostic, does not change from one translation to the next.
fn span(seconds: i64) -> String {
    match seconds / 86_400 {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

fn parse(secret: &Secret) -> Result<Parsed, String> {
    let chain = read_chain(field(secret, "tls.crt")?)?;
    let key = read_key(field(secret, "tls.key")?)?;
    let mut key = fit(chain, key)?;
    let leaf = key.cert.first().cloned().ok_or("tls.crt holds no certificate")?;
    let (_, leaf) = X509Certificate::from_der(&leaf)
        .map_err(|error| format!("the first certificate in tls.crt does not parse: {error}"))?;
    let (names, names_from_subject) = names_of(&leaf);
    let certificate = |key: CertifiedKey| {
        Arc::new(Certificate {
            names: names.clone(),
            not_after: leaf.validity().not_after.timestamp(),
            key: Arc::new(key),
        })
    };
    let staple = bytes_of(secret, "tls.ocsp-staple").map(|bytes| ocsp::staple(bytes, &leaf));
    let (staple, bad_staple) = match staple.transpose() {
        Ok(staple) => (staple, None),
        Err(why) => (None, Some(why)),
    };
    let staple = staple.map(|staple| {
        let bare = certificate(key.clone());
        key.ocsp = Some(staple.bytes);
        let (until, is_revoked) = (staple.until, staple.is_revoked);
        Stapled {
            bare,
            until,
            is_revoked,
        }
    });
    Ok(Parsed {
        not_before: leaf.validity().not_before.timestamp(),
        names_from_subject,
        bad_staple,
        staple,
        certificate: certificate(key),
    })
}

/// `stringData` wins over `data`, as in the API server.
fn field<'a>(secret: &'a Secret, name: &str) -> Result<&'a [u8], String> {
    bytes_of(secret, name).ok_or_else(|| format!("{name} is missing or empty"))
}

fn bytes_of<'a>(secret: &'a Secret, name: &str) -> Option<&'a [u8]> {
    let text = secret.string_data.as_ref().and_then(|all| all.get(name));
    let data = secret.data.as_ref().and_then(|all| all.get(name));
    let bytes = text
        .map(String::as_bytes)
        .or(data.map(|bytes| bytes.0.as_slice()));
    bytes.filter(|bytes| !bytes.is_empty())
}

fn read_chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(text) {
        chain.push(certificate.map_err(|error| format!("tls.crt is not PEM: {}", pem_error(&error)))?);
        if chain.len() > LONGEST_CHAIN {
            return Err(format!("tls.crt holds more than {LONGEST_CHAIN} certificates"));
        }
    }
    if chain.is_empty() {
        return Err("tls.crt holds no PEM certificate (\"-----BEGIN CERTIFICATE-----\")".to_owned());
    }
    Ok(chain)
}

/// PKCS #8, PKCS #1 and SEC 1.
fn read_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound if contains(text, b"ENCRYPTED PRIVATE KEY") => {
            "tls.key is encrypted; it must be stored without a pass phrase".to_owned()
        }
        pem::Error::NoItemsFound => "tls.key holds no PEM private key (PKCS #8, PKCS #1 or SEC 1)".to_owned(),
        // The text of the error could quote the key.
        _ => "tls.key is not PEM".to_owned(),
    })
}

fn pem_error(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end line",
        pem::Error::IllegalSectionStart { .. } => "a section's first line is malformed",
        pem::Error::Base64Decode(_) => "a section is not base64",
        _ => "it cannot be read",
    }
}

/// Joins chain and key if they belong together.
fn fit(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<CertifiedKey, String> {
    let key = aws_lc_rs::sign::any_supported_type(&key)
        .map_err(|_| "tls.key is not an RSA, ECDSA or Ed25519 key that can be used".to_owned())?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(explain_mismatch(&certified)),
        Err(error) => Err(format!("the first certificate in tls.crt is not usable: {error}")),
    }
}

/// Chains in the wrong order are the usual reason.
fn explain_mismatch(certified: &CertifiedKey) -> String {
    let fits = |certificate: &CertificateDer<'static>| {
        let alone = CertifiedKey::new(Vec::from([certificate.clone()]), Arc::clone(&certified.key));
        alone.keys_match().is_ok()
    };
    match certified.cert.iter().position(fits) {
        Some(index) => format!(
            "tls.key fits certificate {} in tls.crt, not the first; the site's own certificate must come first",
            index + 1
        ),
        None => "tls.key does not fit the certificate in tls.crt".to_owned(),
    }
}

/// Lower-case DNS names; the common name where there is none, as OpenSSL-made test certificates have it.
fn names_of(leaf: &X509Certificate<'_>) -> (Vec<String>, bool) {
    let alternative = leaf.subject_alternative_name().ok().flatten();
    let names = alternative
        .iter()
        .flat_map(|extension| &extension.value.general_names);
    let dns = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    let dns: Vec<String> = dns.collect();
    if !dns.is_empty() {
        return (dns, false);
    }
    let common = leaf
        .subject()
        .iter_common_name()
        .filter_map(|name| name.as_str().ok());
    let common: Vec<_> = common.map(str::to_ascii_lowercase).collect();
    let from_subject = !common.is_empty();
    (common, from_subject)
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}
