//! A throw-away certificate authority and what it signs. Knows nothing of the agent.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

/// A certificate authority that lives as long as a test.
#[derive(Debug)]
pub struct Certs {
    authority: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, both as PEM: what a `kubernetes.io/tls` Secret holds.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub certificate: String,
    pub key: String,
}

impl Certs {
    pub fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "throw-away test authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self { authority })
    }

    /// The authority's certificate, for clients to trust.
    pub fn authority_pem(&self) -> String {
        self.authority.pem()
    }

    /// An ECDSA P-256 certificate for these names; the first one is the common name as well.
    pub fn leaf(&self, names: &[&str]) -> anyhow::Result<Leaf> {
        self.sign(names, None, KeyPair::generate()?)
    }

    /// The same with a key of RSA's kind.
    pub fn rsa_leaf(&self, names: &[&str]) -> anyhow::Result<Leaf> {
        let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)?;
        self.sign(names, None, key)
    }

    /// A certificate whose validity ended long ago.
    pub fn expired_leaf(&self, names: &[&str]) -> anyhow::Result<Leaf> {
        self.sign(names, Some(2001), KeyPair::generate()?)
    }

    fn sign(&self, names: &[&str], ended_in: Option<i32>, key: KeyPair) -> anyhow::Result<Leaf> {
        let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
        let common_name = names.first().cloned().unwrap_or_default();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        if let Some(year) = ended_in {
            params.not_before = rcgen::date_time_ymd(year.saturating_sub(1), 1, 1);
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.authority)?;
        Ok(Leaf {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}
