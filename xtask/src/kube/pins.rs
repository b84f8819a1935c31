//! Which programs at which versions: read from the pinned modules in tests/kube-lab, nowhere else written.

use std::path::PathBuf;

use anyhow::Context;

use crate::workspace;

/// Goes into the name of the cache's folder; to be raised when the way of building changes.
const RECIPE: u32 = 1;

/// A program, the module below tests/kube-lab that pins it, and what says its version there.
pub(super) struct Pin {
    pub(super) program: &'static str,
    pub(super) package: &'static str,
    module: &'static str,
    versioned: &'static str,
    pub(super) stamps: Stamps,
}

/// Where a program looks for its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stamps {
    Kubernetes,
    Helm,
    None,
}

/// Apart from the others, so that it can change without them.
pub(super) const HELM: [Pin; 1] = [Pin {
    program: "helm",
    package: "helm.sh/helm/v3/cmd/helm",
    module: "helm",
    versioned: "helm.sh/helm/v3",
    stamps: Stamps::Helm,
}];

pub(super) const PINS: [Pin; 4] = [
    Pin {
        program: "etcd",
        package: "go.etcd.io/etcd/server/v3",
        module: "etcd",
        versioned: "go.etcd.io/etcd/server/v3",
        stamps: Stamps::Kubernetes,
    },
    kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    kubernetes(
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
    ),
];

pub(super) const CERT_MANAGER: [Pin; 4] = [
    cert_manager(
        "cert-manager-controller",
        "./controller",
        "github.com/cert-manager/cert-manager",
    ),
    cert_manager(
        "acmesolver",
        "./acmesolver",
        "github.com/cert-manager/cert-manager",
    ),
    cert_manager(
        "pebble",
        "github.com/letsencrypt/pebble/v2/cmd/pebble",
        "github.com/letsencrypt/pebble/v2",
    ),
    cert_manager(
        "pebble-challtestsrv",
        "github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv",
        "github.com/letsencrypt/pebble/v2",
    ),
];

const fn cert_manager(program: &'static str, package: &'static str, versioned: &'static str) -> Pin {
    Pin {
        program,
        package,
        module: "cert-manager",
        versioned,
        stamps: Stamps::None,
    }
}

const fn kubernetes(program: &'static str, package: &'static str) -> Pin {
    Pin {
        program,
        package,
        module: "control-plane",
        versioned: "k8s.io/kubernetes",
        stamps: Stamps::Kubernetes,
    }
}

impl Pin {
    pub(super) fn folder(&self) -> PathBuf {
        workspace::root().join("tests/kube-lab").join(self.module)
    }

    /// Such as `v1.36.3`.
    pub(super) fn version(&self) -> anyhow::Result<String> {
        self.version_of(self.versioned)
    }

    /// The version of a module that it is built from.
    pub(super) fn version_of(&self, module: &str) -> anyhow::Result<String> {
        let path = self.folder().join("go.mod");
        let text = std::fs::read_to_string(&path).with_context(|| workspace::shown(&path))?;
        version_in(&text, module)
            .with_context(|| format!("{}: no version of {module}", workspace::shown(&path)))
    }
}

pub(super) fn version_in(go_mod: &str, module: &str) -> Option<String> {
    go_mod.lines().find_map(|line| {
        let line = line.trim().trim_start_matches("require ");
        let version = line.strip_prefix(module)?.strip_prefix(' ')?;
        Some(version.split(' ').next()?.to_owned())
    })
}

/// A name for everything that decides what these programs are.
pub(super) fn hash(pins: &[Pin]) -> anyhow::Result<String> {
    let mut hash = Fnv::new();
    hash.add(&RECIPE.to_le_bytes());
    for pin in pins {
        for file in ["go.mod", "go.sum"] {
            let path = pin.folder().join(file);
            hash.add(&std::fs::read(&path).with_context(|| workspace::shown(&path))?);
        }
        // A program of our own around a module's libraries.
        if pin.package.starts_with("./") {
            let path = pin.folder().join(pin.package).join("main.go");
            hash.add(&std::fs::read(&path).with_context(|| workspace::shown(&path))?);
        }
    }
    Ok(format!("{:016x}", hash.0))
}

/// FNV-1a: the same on every toolchain, which std's hasher does not promise.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_the_pinned_modules() {
        for pin in PINS.iter().chain(&HELM).chain(&CERT_MANAGER) {
            let version = pin.version().unwrap();
            assert!(
                ["v1.", "v2.", "v3."]
                    .iter()
                    .any(|major| version.starts_with(major)),
                "{version}"
            );
        }
        let text = "require (\n\ta/b v1.2.3 // indirect\n\ta/bc v4.5.6\n)\n";
        assert_eq!(version_in(text, "a/b").as_deref(), Some("v1.2.3"));
        assert_eq!(
            version_in("require a/bc v4.5.6\n", "a/bc").as_deref(),
            Some("v4.5.6")
        );
        assert_eq!(version_in(text, "a"), None);
    }

    #[test]
    fn the_hash_is_the_published_one() {
        // Test vector of the FNV authors for "foobar".
        let mut hash = Fnv::new();
        hash.add(b"foobar");
        assert_eq!(hash.0, 0x8594_4171_f739_67e8);
    }
}
