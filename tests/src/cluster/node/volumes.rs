//! What a Pod mounts and what its containers find in their environment, from the objects that it names. Tokens are not renewed: they live
//! longer than a test.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVarSource, KeyToPath, Pod, Secret, ServiceAccount, Volume, VolumeProjection,
};
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use super::{NODE, Shared, from_json, network};

type Files = BTreeMap<String, Vec<u8>>;

/// Asks for what one Pod names.
pub(super) struct Sources<'a> {
    pub(super) shared: &'a Shared,
    pub(super) pod: &'a Pod,
    pub(super) address: Ipv4Addr,
}

impl Sources<'_> {
    /// Every volume of the Pod as a folder of this machine, below `folder` but those of the node itself.
    pub(super) async fn volumes(&self, folder: &Path) -> anyhow::Result<BTreeMap<String, PathBuf>> {
        let spec = self.pod.spec.as_ref().context("no spec")?;
        let mut all = BTreeMap::new();
        for volume in spec.volumes.iter().flatten() {
            let path = self.volume(volume, &folder.join(&volume.name)).await;
            let path = path.with_context(|| format!("volume {}", volume.name))?;
            all.insert(volume.name.clone(), path);
        }
        Ok(all)
    }

    async fn volume(&self, volume: &Volume, folder: &Path) -> anyhow::Result<PathBuf> {
        if let Some(host) = &volume.host_path {
            // The node's, not this machine's.
            let path = self
                .shared
                .folder
                .join("host")
                .join(host.path.trim_start_matches('/'));
            std::fs::create_dir_all(&path)?;
            return Ok(path);
        }
        std::fs::create_dir_all(folder)?;
        let files = if volume.empty_dir.is_some() {
            return Ok(folder.to_path_buf());
        } else if let Some(secret) = &volume.secret {
            let name = secret.secret_name.as_deref().unwrap_or_default();
            pick(self.secret(name, secret.optional).await?, secret.items.as_deref())?
        } else if let Some(map) = &volume.config_map {
            pick(
                self.config_map(&map.name, map.optional).await?,
                map.items.as_deref(),
            )?
        } else if let Some(projected) = &volume.projected {
            let mut files = Files::new();
            for source in projected.sources.iter().flatten() {
                files.extend(self.projection(source).await?);
            }
            files
        } else {
            bail!("of a kind that this node does not know");
        };
        for (name, bytes) in files {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().context("no folder")?)?;
            std::fs::write(path, bytes)?;
        }
        Ok(folder.to_path_buf())
    }

    async fn projection(&self, source: &VolumeProjection) -> anyhow::Result<Files> {
        if let Some(token) = &source.service_account_token {
            return Ok(Files::from([(
                token.path.clone(),
                self.token(token.audience.as_deref()).await?,
            )]));
        }
        if let Some(map) = &source.config_map {
            return pick(
                self.config_map(&map.name, map.optional).await?,
                map.items.as_deref(),
            );
        }
        if let Some(secret) = &source.secret {
            return pick(
                self.secret(&secret.name, secret.optional).await?,
                secret.items.as_deref(),
            );
        }
        let mut files = Files::new();
        let downward = source
            .downward_api
            .as_ref()
            .context("a projection that this node does not know")?;
        for file in downward.items.iter().flatten() {
            let field = file.field_ref.as_ref().context("no fieldRef")?;
            files.insert(file.path.clone(), self.field(&field.field_path)?.into_bytes());
        }
        Ok(files)
    }

    async fn token(&self, audience: Option<&str>) -> anyhow::Result<Vec<u8>> {
        let account = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.clone());
        let accounts: Api<ServiceAccount> = self.api();
        let pod = &self.pod.metadata;
        let request: TokenRequest = from_json(json!({"metadata": {}, "spec": {
            "audiences": audience.into_iter().collect::<Vec<_>>(), "expirationSeconds": 3600,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}}}))?;
        let account = account.as_deref().unwrap_or("default");
        let answer = accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await?;
        Ok(answer.status.context("no token")?.token.into_bytes())
    }

    async fn secret(&self, name: &str, optional: Option<bool>) -> anyhow::Result<Files> {
        let found = self.api::<Secret>().get_opt(name).await?;
        let data = found.map(|secret| secret.data.unwrap_or_default());
        let bytes = |(key, ByteString(bytes))| (key, bytes);
        match data {
            Some(data) => Ok(data.into_iter().map(bytes).collect()),
            None if optional == Some(true) => Ok(Files::new()),
            None => bail!("Secret {name} does not exist"),
        }
    }

    async fn config_map(&self, name: &str, optional: Option<bool>) -> anyhow::Result<Files> {
        let found = self.api::<ConfigMap>().get_opt(name).await?;
        let data = found.map(|map| map.data.unwrap_or_default());
        match data {
            Some(data) => Ok(data
                .into_iter()
                .map(|(key, text)| (key, text.into_bytes()))
                .collect()),
            None if optional == Some(true) => Ok(Files::new()),
            None => bail!("ConfigMap {name} does not exist"),
        }
    }

    /// The environment of a container.
    pub(super) async fn environment(
        &self,
        container: &Container,
    ) -> anyhow::Result<BTreeMap<String, String>> {
        let name = self.pod.metadata.name.clone().unwrap_or_default();
        let mut all = BTreeMap::from([
            ("PATH".to_owned(), super::container::PATH.to_owned()),
            ("HOSTNAME".to_owned(), name),
            ("KUBERNETES_SERVICE_HOST".to_owned(), network::API.0.to_string()),
            ("KUBERNETES_SERVICE_PORT".to_owned(), network::API.1.to_string()),
        ]);
        for variable in container.env.iter().flatten() {
            let value = match &variable.value_from {
                None => expand(variable.value.as_deref().unwrap_or_default(), &all),
                Some(source) => {
                    let value = self.value(source).await;
                    value.with_context(|| format!("environment variable {}", variable.name))?
                }
            };
            all.insert(variable.name.clone(), value);
        }
        Ok(all)
    }

    async fn value(&self, source: &EnvVarSource) -> anyhow::Result<String> {
        if let Some(field) = &source.field_ref {
            return self.field(&field.field_path);
        }
        let (mut files, key) = if let Some(secret) = &source.secret_key_ref {
            (self.secret(&secret.name, secret.optional).await?, &secret.key)
        } else if let Some(map) = &source.config_map_key_ref {
            (self.config_map(&map.name, map.optional).await?, &map.key)
        } else {
            bail!("from a source that this node does not know");
        };
        Ok(String::from_utf8(files.remove(key).unwrap_or_default())?)
    }

    fn field(&self, path: &str) -> anyhow::Result<String> {
        let (meta, spec) = (&self.pod.metadata, self.pod.spec.as_ref());
        let quoted = |kind: &str| path.strip_prefix(kind)?.strip_prefix("['")?.strip_suffix("']");
        let found = match path {
            "metadata.name" => meta.name.clone(),
            "metadata.namespace" => meta.namespace.clone(),
            "metadata.uid" => meta.uid.clone(),
            "spec.nodeName" => Some(NODE.to_owned()),
            "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
            "status.podIP" | "status.podIPs" => Some(self.address.to_string()),
            "status.hostIP" => Some(self.shared.network.node().to_string()),
            _ => {
                let of = |map: &Option<BTreeMap<String, String>>, key| map.as_ref()?.get(key).cloned();
                let label = quoted("metadata.labels").map(|key| of(&meta.labels, key));
                let annotation = || quoted("metadata.annotations").map(|key| of(&meta.annotations, key));
                let known = label.or_else(annotation);
                Some(
                    known
                        .with_context(|| format!("{path} is a field that this node does not know"))?
                        .unwrap_or_default(),
                )
            }
        };
        Ok(found.unwrap_or_default())
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        Api::namespaced(self.shared.client.clone(), namespace)
    }
}

fn pick(mut files: Files, items: Option<&[KeyToPath]>) -> anyhow::Result<Files> {
    let Some(items) = items else { return Ok(files) };
    let pick = |item: &KeyToPath| {
        let bytes = files.remove(&item.key);
        Ok((
            item.path.clone(),
            bytes.with_context(|| format!("no key {}", item.key))?,
        ))
    };
    items.iter().map(pick).collect()
}

/// `$(NAME)` where there is such a variable; `$$` is a dollar.
pub(super) fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let name = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        match name {
            Some((name, behind)) => {
                match variables.get(name) {
                    Some(value) => out.push_str(value),
                    None => out.push_str(&format!("$({name})")),
                }
                rest = behind;
            }
            None => {
                out.push('$');
                rest = after.strip_prefix('$').unwrap_or(after);
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_expanded_where_they_exist() {
        let variables = BTreeMap::from([("NAME".to_owned(), "web-1".to_owned())]);
        for (text, expanded) in [
            ("$(NAME).test", "web-1.test"),
            ("$(OTHER)", "$(OTHER)"),
            ("$$(NAME)", "$(NAME)"),
            ("a$", "a$"),
        ] {
            assert_eq!(expand(text, &variables), expanded, "{text}");
        }
    }
}
