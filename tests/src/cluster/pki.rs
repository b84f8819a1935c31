//! The throw-away certificates of a control plane, written as the files that its programs read. Knows nothing of the programs.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType,
};

/// First address of the Service range: the one of `kubernetes.default`.
const FIRST_SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// A folder of PEM files: `ca.crt`, and for each name `NAME.crt` and `NAME.key`.
#[derive(Clone, Debug)]
pub(super) struct Pki {
    folder: PathBuf,
}

impl Pki {
    /// Writes everything. One authority signs all; the API server tells its clients apart by their subjects.
    pub(super) fn write(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let pki = Self {
            folder: folder.to_path_buf(),
        };
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "throw-away cluster authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        std::fs::write(pki.file("ca.crt"), authority.pem())?;

        let names = ["localhost", "kubernetes.default", "kubernetes.default.svc"];
        let mut server = CertificateParams::new(names.map(str::to_owned))?;
        for ip in [Ipv4Addr::LOCALHOST, FIRST_SERVICE_IP] {
            server.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(ip)));
        }
        pki.sign("kube-apiserver", "kube-apiserver", None, server, &authority)?;
        for (file, user, group) in [
            // RBAC lets this group do everything.
            ("admin", "kubernetes-admin", Some("system:masters")),
            ("kube-controller-manager", "system:kube-controller-manager", None),
            ("front-proxy-client", "front-proxy-client", None),
        ] {
            pki.sign(file, user, group, CertificateParams::default(), &authority)?;
        }
        // Signs the tokens of ServiceAccounts; no certificate belongs to it.
        let accounts = KeyPair::generate()?;
        std::fs::write(pki.file("service-accounts.key"), accounts.serialize_pem())?;
        std::fs::write(pki.file("service-accounts.pub"), accounts.public_key_pem())?;
        Ok(pki)
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn sign(
        &self,
        file: &str,
        user: &str,
        group: Option<&str>,
        mut params: CertificateParams,
        authority: &CertifiedIssuer<'static, KeyPair>,
    ) -> anyhow::Result<()> {
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, authority)?;
        std::fs::write(self.file(&format!("{file}.crt")), certificate.pem())?;
        std::fs::write(self.file(&format!("{file}.key")), key.serialize_pem())?;
        Ok(())
    }
}
