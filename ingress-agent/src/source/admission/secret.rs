//! Secret and ConfigMap (`ValidateSecret` and `ValidateConfigMap` of `pkg/apis/core/validation`).

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::field::{Errors, FieldError, Path};
use super::metadata::{self, Scope};
use super::{names, service};

/// All values of an object together (`MaxSecretSize`).
const MAX_BYTES: usize = 1024 * 1024;
const ACCOUNT_ANNOTATION: &str = "kubernetes.io/service-account.name";

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
    validate_type(secret, &path, &mut errors);
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

/// What each built-in type asks for. Whether a Docker configuration is JSON is not looked at: nothing here reads it.
fn validate_type(secret: &Secret, path: &Path, errors: &mut Errors) {
    let value = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
    let mut required = |keys: &[&str]| {
        for key in keys {
            errors.required(&path.key(key), "");
        }
    };
    match secret.type_.as_deref() {
        Some("kubernetes.io/tls") => {
            for key in ["tls.crt", "tls.key"] {
                if value(key).is_none() {
                    required(&[key]);
                }
            }
        }
        Some("kubernetes.io/dockercfg") if value(".dockercfg").is_none() => required(&[".dockercfg"]),
        Some("kubernetes.io/dockerconfigjson") if value(".dockerconfigjson").is_none() => {
            required(&[".dockerconfigjson"]);
        }
        // One of the two is enough.
        Some("kubernetes.io/basic-auth") if value("username").is_none() && value("password").is_none() => {
            required(&["username", "password"]);
        }
        Some("kubernetes.io/ssh-auth") if value("ssh-privatekey").is_none_or(|key| key.0.is_empty()) => {
            required(&["ssh-privatekey"]);
        }
        Some("kubernetes.io/service-account-token") => {
            let annotations = secret.metadata.annotations.as_ref();
            let account = annotations.and_then(|all| all.get(ACCOUNT_ANNOTATION));
            if account.is_none_or(String::is_empty) {
                let at = Path::new("metadata").child("annotations").key(ACCOUNT_ANNOTATION);
                errors.required(&at, "");
            }
        }
        _ => {}
    }
}
