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
        let all = self.settings.iter().chain(&newer.settings);
        let differs = |id: &str| self.setting(id) != newer.setting(id);
        let mut ids: Vec<_> = all.map(|setting| setting.id.replace('_', "-")).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| !AT_RUN_TIME.contains(&id.as_str()) && differs(id));
        ids
    }

    fn setting(&self, id: &str) -> Option<&Setting> {
        self.settings
            .iter()
            .find(|setting| setting.id.replace('_', "-") == id)
    }
}
