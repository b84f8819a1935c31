//! What the settings were made from, so that the file can be read again while the agent runs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::file::Setting;
use super::{Config, ConfigError, flags};

/// Arguments and file. The environment does not change while a process runs.
#[derive(Clone, Debug, Default)]
pub struct Typed {
    pub(super) args: Vec<OsString>,
    pub(super) file: Option<PathBuf>,
    /// What the file says and neither a flag nor the environment overrides.
    pub(super) settings: Vec<Setting>,
    /// What it says and one of them does.
    pub(super) overridden: Vec<Setting>,
}

/// The settings that take effect while the agent runs.
const AT_RUN_TIME: [&str; 2] = ["http", "https"];

impl Typed {
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The same arguments with the file as it is now.
    ///
    /// # Errors
    /// What is wrong with the file, or with the whole.
    pub fn again(&self) -> Result<Config, ConfigError> {
        flags::parse(self.args.clone())
    }

    /// Settings that differ between the two and take effect at a restart alone.
    pub fn needs_restart(&self, newer: &Self) -> Vec<String> {
        let mut ids = changed(&self.settings, &newer.settings);
        ids.retain(|id| !AT_RUN_TIME.contains(&id.as_str()));
        ids
    }

    /// Settings that the file says otherwise in the newer one, in vain: a flag or the environment overrides them.
    pub fn in_vain(&self, newer: &Self) -> Vec<String> {
        changed(&self.overridden, &newer.overridden)
    }
}

/// The names of the settings that differ.
fn changed(old: &[Setting], new: &[Setting]) -> Vec<String> {
    let find = |all: &[Setting], id: &str| all.iter().find(|setting| setting.id == id).cloned();
    let ids = old.iter().chain(new).map(|setting| &setting.id);
    let mut ids: Vec<_> = ids
        .filter(|id| find(old, id) != find(new, id))
        .map(|id| id.replace('_', "-"))
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}
