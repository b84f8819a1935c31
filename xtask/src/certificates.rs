//! A throw-away authority and the certificates and Secrets it signs, for the demo and the bench.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// Both as PEM.
pub(crate) struct Leaf {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "ingress-agent, throw-away");
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// ECDSA P-256; the first name is the common name as well.
    pub(crate) fn leaf(&self, names: &[String]) -> anyhow::Result<Leaf> {
        let mut params = CertificateParams::new(names)?;
        let common_name = names.first().cloned().unwrap_or_default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate()?;
        Ok(Leaf {
            certificate: params.signed_by(&key, &self.0)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

impl Leaf {
    /// The manifest of a `kubernetes.io/tls` Secret.
    pub(crate) fn secret(&self, namespace: &str, name: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata:\n  namespace: {namespace}\n  name: {name}\n\
             data:\n  tls.crt: {}\n  tls.key: {}\n",
            STANDARD.encode(&self.certificate),
            STANDARD.encode(&self.key)
        )
    }
}
