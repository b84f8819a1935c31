//! The usual case in one line: Ingresses, an echo backend for each Service that they name, and our class.

use std::collections::BTreeMap;

use anyhow::Context;

use crate::agent::TestAgent;
use crate::echo::Echo;
use crate::manifests::{Ingress, Manifests};

/// Manifests with the backends that they need.
#[derive(Debug)]
pub struct Site {
    pub manifests: Manifests,
    backends: BTreeMap<String, Echo>,
}

impl Site {
    /// Each Service is backed by one echo backend that says the Service's name.
    pub fn new(ingresses: &[Ingress]) -> anyhow::Result<Self> {
        let mut site = Self {
            manifests: Manifests::new()?,
            backends: BTreeMap::new(),
        };
        site.manifests.our_class()?;
        for ingress in ingresses {
            for service in ingress.services() {
                site.service(&service)?;
            }
            site.manifests.ingress(ingress)?;
        }
        Ok(site)
    }

    /// One more Service with an echo backend.
    pub fn service(&mut self, name: &str) -> anyhow::Result<()> {
        let (_, short) = name.split_once('/').unwrap_or(("default", name));
        if !self.backends.contains_key(short) {
            self.backends.insert(short.to_owned(), Echo::start(short)?);
        }
        let address = self.backend(short)?.address();
        self.manifests.service(name, &[address])?;
        Ok(())
    }

    /// The backend of a Service, by the Service's name without its namespace.
    pub fn backend(&self, service: &str) -> anyhow::Result<&Echo> {
        self.backends
            .get(service)
            .with_context(|| format!("no Service {service} in this site"))
    }

    pub fn start(&self) -> anyhow::Result<TestAgent> {
        TestAgent::start(&self.manifests)
    }

    pub fn start_with(&self, flags: &[&str]) -> anyhow::Result<TestAgent> {
        TestAgent::start_with(&self.manifests, flags)
    }
}
