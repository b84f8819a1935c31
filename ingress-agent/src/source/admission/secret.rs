//! Secret and ConfigMap (`ValidateSecret` and `ValidateConfigMap` of `pkg/apis/core/validation`).

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::field::{Errors, FieldError, Path};
use super::metadata::{self, Scope};
use super::{names, service};

/// All values of an object together (`MaxSecretSize`).
const MAX_BYTES: usize = 1024 * 1024;

/// `stringData` goes into `data` and wins over it; the type is Opaque.
pub(super) fn default_secret(secret: &mut Secret) {
    if let Some(texts) = secret.string_data.take() {
        let data = secret.data.get_or_insert_default();
        data.extend(
            texts
                .into_iter()
                .map(|(key, text)| (key, ByteString(text.into_bytes()))),
        );
    }
    service::fill(&mut secret.type_, "Opaque");
}

pub(super) fn validate_secret(secret: &Secret) -> Result<(), Vec<FieldError>> {
    let mut errors = Errors::default();
    metadata::validate(
        &secret.metadata,
        Scope::Namespace,
        names::dns_subdomain,
        &mut errors,
    );
    let path = Path::new("data");
    let mut total = 0_usize;
    for (key, value) in secret.data.iter().flatten() {
        errors.invalid_each(&path.key(key), key.as_str(), names::config_key(key));
        total = total.saturating_add(value.0.len());
    }
    if total > MAX_BYTES {
        errors.too_long(&path, MAX_BYTES);
    }
    for key in required_keys(secret) {
        if !secret.data.as_ref().is_some_and(|data| data.contains_key(*key)) {
            errors.required(&path.key(key), "");
        }
    }
    errors.into_result()
}

pub(super) fn validate_config_map(map: &ConfigMap) -> Result<(), Vec<FieldError>> {
    let mut errors = Errors::default();
    metadata::validate(&map.metadata, Scope::Namespace, names::dns_subdomain, &mut errors);
    let mut total = 0_usize;
    for (key, value) in map.data.iter().flatten() {
        let path = Path::new("data").key(key);
        errors.invalid_each(&path, key.as_str(), names::config_key(key));
        if map
            .binary_data
            .as_ref()
            .is_some_and(|data| data.contains_key(key))
        {
            errors.invalid(&path, key.as_str(), "duplicate of key present in binaryData");
        }
        total = total.saturating_add(value.len());
    }
    for (key, value) in map.binary_data.iter().flatten() {
        errors.invalid_each(
            &Path::new("binaryData").key(key),
            key.as_str(),
            names::config_key(key),
        );
        total = total.saturating_add(value.0.len());
    }
    if total > MAX_BYTES {
        errors.too_long(&Path::new(""), MAX_BYTES);
    }
    errors.into_result()
}

fn required_keys(secret: &Secret) -> &'static [&'static str] {
    match secret.type_.as_deref() {
        Some("kubernetes.io/tls") => &["tls.crt", "tls.key"],
        Some("kubernetes.io/dockercfg") => &[".dockercfg"],
        Some("kubernetes.io/dockerconfigjson") => &[".dockerconfigjson"],
        Some("kubernetes.io/ssh-auth") => &["ssh-privatekey"],
        _ => &[],
    }
}
