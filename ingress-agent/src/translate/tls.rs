//! `spec.tls[]`: which certificate serves which names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ingress_core::diagnostic::Diagnostic;
use ingress_core::host::HostPattern;
use ingress_core::name::{Kind, ObjectRef};
use ingress_core::resource::{CertificateBinding, CertificateKey, Seniority};
use k8s_openapi::api::networking::v1::IngressTLS;

use super::notes::{Notes, excerpt};
use super::secret::{self, Shelf};
use super::{Certificate, Options};
use crate::objects::{Key, Objects};

/// The Secrets that bindings name, each looked at once.
pub(super) struct Certificates<'a> {
    objects: &'a Objects,
    options: &'a Options,
    shelf: &'a mut Shelf,
    asked: BTreeMap<Key, Answer>,
    diagnostics: Vec<Diagnostic>,
}

/// What a Secret is good for.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Usable(CertificateKey, Arc<Certificate>),
    Missing,
    /// The Diagnostic on the Secret says why; this is the sentence for who refers to it.
    Unusable(String),
}

impl<'a> Certificates<'a> {
    pub(super) fn new(objects: &'a Objects, options: &'a Options, shelf: &'a mut Shelf) -> Self {
        Self {
            objects,
            options,
            shelf,
            asked: BTreeMap::new(),
            diagnostics: Vec::new(),
        }
    }

    /// The Secret for names that no other certificate has.
    pub(super) fn default_certificate(&mut self) -> Option<CertificateKey> {
        let (namespace, name) = self.options.default_certificate.as_ref()?;
        match self.get(Key::new(namespace, name)) {
            Answer::Usable(key, _) => Some(key),
            Answer::Unusable(_) => None,
            Answer::Missing => {
                let object = ObjectRef::new(Kind::Secret, namespace.as_str(), name.as_str());
                let mut notes = Notes::new(object.into(), None);
                let message = "does not exist, and is configured as the default certificate".to_owned();
                notes.error("", "SecretNotFound", message);
                notes.finish(&mut self.diagnostics);
                None
            }
        }
    }

    fn get(&mut self, key: Key) -> Answer {
        if let Some(answer) = self.asked.get(&key) {
            return answer.clone();
        }
        let answer = match self.objects.secrets.get(&key) {
            None => Answer::Missing,
            Some(secret) => {
                let object: Arc<ObjectRef> =
                    ObjectRef::new(Kind::Secret, key.namespace.as_str(), key.name.as_str()).into();
                let mut notes = Notes::new(Arc::clone(&object), secret.metadata.generation);
                let read = secret::read(
                    secret,
                    CertificateKey(object),
                    self.shelf,
                    self.options.now_unix,
                    &mut notes,
                );
                notes.finish(&mut self.diagnostics);
                read
            }
        };
        self.asked.insert(key, answer.clone());
        answer
    }

    /// Ends a translation: the usable certificates and what is wrong with the Secrets.
    pub(super) fn finish(self) -> (BTreeMap<CertificateKey, Arc<Certificate>>, Vec<Diagnostic>) {
        self.shelf.turn();
        let usable = self.asked.into_values().filter_map(|answer| match answer {
            Answer::Usable(key, certificate) => Some((key, certificate)),
            _ => None,
        });
        (usable.collect(), self.diagnostics)
    }
}

/// The `spec.tls` of one Ingress.
pub(super) struct Binder<'a> {
    pub(super) namespace: &'a str,
    pub(super) created: Option<i64>,
    pub(super) leaving: bool,
    pub(super) rule_hosts: &'a BTreeSet<HostPattern>,
}

impl Binder<'_> {
    /// Binds usable certificates only: a host that has none is not redirected to HTTPS.
    pub(super) fn bind(
        &self,
        entries: &[IngressTLS],
        certificates: &mut Certificates<'_>,
        notes: &mut Notes,
    ) -> Vec<CertificateBinding> {
        let mut bindings = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let field = format!("spec.tls[{index}]");
            let Some((key, certificate)) = self.certificate(entry, &field, certificates, notes) else {
                continue;
            };
            let hosts = match entry.hosts.as_deref() {
                Some(hosts) if !hosts.is_empty() => listed_hosts(hosts, &certificate, &field, notes),
                _ => self.hosts_of(&certificate, &field, notes),
            };
            bindings.extend(hosts.into_iter().enumerate().map(|(position, host)| {
                CertificateBinding {
                    seniority: Seniority::new(self.created, Arc::clone(&notes.object), (index, position))
                        .leaving(self.leaving),
                    field: field.clone(),
                    host,
                    certificate: key.clone(),
                }
            }));
        }
        bindings
    }

    fn certificate(
        &self,
        entry: &IngressTLS,
        field: &str,
        certificates: &mut Certificates<'_>,
        notes: &mut Notes,
    ) -> Option<(CertificateKey, Arc<Certificate>)> {
        let field = format!("{field}.secretName");
        let named = entry.secret_name.as_deref().filter(|name| !name.is_empty());
        let key = match (named, &certificates.options.default_certificate) {
            (Some(name), _) => Key::new(self.namespace, name),
            (None, Some((namespace, name))) => Key::new(namespace, name),
            (None, None) => {
                let message =
                    "is not set, and there is no default certificate; its hosts have no HTTPS".to_owned();
                notes.warning(&field, "NoCertificate", message);
                return None;
            }
        };
        let name = format!("{}/{}", key.namespace, key.name);
        match certificates.get(key) {
            Answer::Usable(key, certificate) => Some((key, certificate)),
            Answer::Missing => {
                let message = format!(
                    "Secret {} does not exist; its hosts have no HTTPS",
                    excerpt(&name)
                );
                notes.error(&field, "SecretNotFound", message);
                None
            }
            Answer::Unusable(why) => {
                let message = format!("Secret {} is not usable: {why}", excerpt(&name));
                notes.error(&field, "SecretUnusable", message);
                None
            }
        }
    }

    /// Without `hosts`, as ingress-nginx does: the hosts of the rules that the certificate covers; all of its own names
    /// where a rule without a host stands for all hosts, or where there is no rule at all.
    fn hosts_of(&self, certificate: &Certificate, field: &str, notes: &mut Notes) -> Vec<HostPattern> {
        if self.rule_hosts.is_empty() || self.rule_hosts.contains(&HostPattern::Any) {
            let names = certificate.names.iter();
            return names.filter_map(|name| HostPattern::parse(name).ok()).collect();
        }
        let covered = self.rule_hosts.iter().filter(|host| covers(certificate, host));
        let covered: Vec<_> = covered.cloned().collect();
        if covered.is_empty() {
            let message = format!(
                "lists no hosts, and the certificate ({}) covers no host of the rules; it is not used",
                names_of(certificate)
            );
            notes.warning(&format!("{field}.hosts"), "CertificateHostMismatch", message);
        }
        covered
    }
}

fn listed_hosts(
    hosts: &[String],
    certificate: &Certificate,
    field: &str,
    notes: &mut Notes,
) -> Vec<HostPattern> {
    let mut good = Vec::with_capacity(hosts.len());
    for (index, text) in hosts.iter().enumerate() {
        let field = format!("{field}.hosts[{index}]");
        let host = match HostPattern::parse(text) {
            Ok(HostPattern::Any) => {
                notes.error(&field, "InvalidHost", "is empty; it is left out".to_owned());
                continue;
            }
            Ok(host) => host,
            Err(why) => {
                notes.error(
                    &field,
                    "InvalidHost",
                    format!("{} {why}; it is left out", excerpt(text)),
                );
                continue;
            }
        };
        if !covers(certificate, &host) {
            let message = format!(
                "{host} is not among the names of the certificate ({}); clients will refuse it",
                names_of(certificate)
            );
            notes.warning(&field, "CertificateHostMismatch", message);
        }
        good.push(host);
    }
    good
}

/// RFC 6125, 6.4.3: a wildcard stands for one whole label.
fn covers(certificate: &Certificate, host: &HostPattern) -> bool {
    let host = host.to_string();
    certificate.names.iter().any(|name| {
        *name == host
            || name
                .strip_prefix("*.")
                .is_some_and(|suffix| ingress_core::host::wildcard_suffix(&host) == Some(suffix))
    })
}

fn names_of(certificate: &Certificate) -> String {
    let mut shown: Vec<_> = certificate.names.iter().take(5).map(String::as_str).collect();
    if certificate.names.len() > 5 {
        shown.push("…");
    }
    match shown.as_slice() {
        [] => "which has no DNS names".to_owned(),
        names => names.join(", "),
    }
}
