//! The command that starts a container: a mount namespace with a root of its own, the Pod's network, the user and the capabilities that the
//! manifest gives. Not done: seccomp and resource limits.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use k8s_openapi::api::core::v1::{Container, SecurityContext};

use super::process::Process;
use super::volumes::expand;

/// The image's one program comes first.
pub(super) const PATH: &str = "/image:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What programs need of this machine: its libraries, and the setpriv that starts them.
const SYSTEM: &[&str] = &["usr", "lib", "lib64", "bin", "sbin"];
/// What a container runtime gives without being asked (containerd's defaults), by number (linux/capability.h).
const DEFAULT: &[u8] = &[0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31];
const NAMED: &[(&str, u8)] = &[
    ("NET_BIND_SERVICE", 10),
    ("NET_ADMIN", 12),
    ("NET_RAW", 13),
    ("SYS_ADMIN", 21),
    ("SYS_RESOURCE", 24),
    ("PERFMON", 38),
    ("BPF", 39),
];

/// Everything that a container is made from.
pub(super) struct Recipe<'a> {
    pub(super) container: &'a Container,
    /// The program, and its name in the image.
    pub(super) program: &'a Path,
    pub(super) name: &'a str,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) volumes: &'a BTreeMap<String, PathBuf>,
    /// A process in the Pod's network namespace.
    pub(super) network: u32,
    /// For the root and the log.
    pub(super) folder: &'a Path,
}

impl Recipe<'_> {
    pub(super) fn start(&self) -> anyhow::Result<Process> {
        let name = &self.container.name;
        let (root, log) = (self.folder.join(name), self.folder.join(format!("{name}.log")));
        let script = self.script(&root)?;
        let log = File::options().create(true).append(true).open(log)?;
        let words = self.words();
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "nsenter"])
            .arg(format!("--net=/proc/{}/ns/net", self.network))
            .args(["--", "unshare", "--mount", "--propagation", "private", "--"])
            .args(["sh", "-ec", &script, "container"])
            .args(confinement(self.container.security_context.as_ref())?)
            .args(words)
            .env_clear()
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Process::start(&mut command)
    }

    /// Entry point and arguments; the image's entry point is its program.
    fn words(&self) -> Vec<String> {
        let filled = |words: &Option<Vec<String>>| -> Vec<String> {
            let words = words.iter().flatten();
            words.map(|word| expand(word, &self.environment)).collect()
        };
        let mut words = filled(&self.container.command);
        if words.is_empty() {
            words.push(self.image_path());
        }
        words.extend(filled(&self.container.args));
        words
    }

    fn image_path(&self) -> String {
        format!("/image/{}", self.name)
    }

    /// Makes the root's folders, and says how to mount what belongs there.
    fn script(&self, root: &Path) -> anyhow::Result<String> {
        let at = |path: &str| root.join(path.trim_start_matches('/'));
        for folder in ["proc", "sys", "dev", "tmp", "etc", "image"] {
            std::fs::create_dir_all(at(folder))?;
        }
        let mut script = format!("mount --bind {0} {0}\n", quoted(root));
        let mut bind = |from: &Path, to: &Path, is_read_only: bool| {
            let to = quoted(to);
            script.push_str(&format!("mount --rbind {} {to}\n", quoted(from)));
            if is_read_only {
                script.push_str(&format!("mount -o remount,bind,ro {to}\n"));
            }
        };
        for name in SYSTEM {
            let from = Path::new("/").join(name);
            if let Ok(target) = std::fs::read_link(&from) {
                // Of an earlier start of the same container, perhaps.
                let _ = std::os::unix::fs::symlink(target, at(name));
            } else if from.is_dir() {
                std::fs::create_dir_all(at(name))?;
                bind(&from, &at(name), true);
            }
        }
        for name in ["proc", "sys", "dev"] {
            bind(&Path::new("/").join(name), &at(name), false);
        }
        File::create(at(&self.image_path()))?;
        bind(self.program, &at(&self.image_path()), true);
        for mount in self.container.volume_mounts.iter().flatten() {
            let volume = self.volumes.get(&mount.name);
            let volume = volume.with_context(|| format!("no volume {}", mount.name))?;
            let from = volume.join(mount.sub_path.as_deref().unwrap_or_default());
            let to = at(&mount.mount_path);
            if from.is_dir() {
                std::fs::create_dir_all(&to)?;
            } else {
                std::fs::create_dir_all(to.parent().context("no folder")?)?;
                File::create(&to)?;
            }
            bind(&from, &to, mount.read_only == Some(true));
        }
        let context = self.container.security_context.as_ref();
        if context.is_some_and(|context| context.read_only_root_filesystem == Some(true)) {
            script.push_str(&format!("mount -o remount,bind,ro {}\n", quoted(root)));
        }
        script.push_str(&format!("exec chroot {} \"$@\"\n", quoted(root)));
        Ok(script)
    }
}

/// A command in a container that runs, for probes and hooks: its namespaces, its root, its environment and its rights.
pub(super) fn inside(
    of: u32,
    container: &Container,
    environment: &BTreeMap<String, String>,
    words: &[String],
) -> anyhow::Result<Command> {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", "nsenter", "--target"])
        .arg(of.to_string())
        .args(["--mount", "--net", "--root", "--"])
        .args(confinement(container.security_context.as_ref())?)
        .args(words)
        .env_clear()
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(command)
}

/// The words that take away what the manifest does not give.
fn confinement(context: Option<&SecurityContext>) -> anyhow::Result<Vec<String>> {
    let is = |field: fn(&SecurityContext) -> Option<bool>| context.and_then(field);
    let mut words = vec!["setpriv".to_owned()];
    if is(|context| context.privileged) != Some(true) {
        let wished = context.and_then(|context| context.capabilities.as_ref());
        let drops_all = wished.is_some_and(|wished| wished.drop.iter().flatten().any(|name| name == "ALL"));
        let mut numbers = if drops_all { Vec::new() } else { DEFAULT.to_vec() };
        for name in wished.iter().flat_map(|wished| wished.add.iter().flatten()) {
            let (_, number) = NAMED
                .iter()
                .find(|(known, _)| known == name)
                .with_context(|| format!("capability {name} is not known here"))?;
            numbers.push(*number);
        }
        let added: String = numbers.iter().map(|number| format!(",+cap_{number}")).collect();
        words.push(format!("--bounding-set=-all{added}"));
        words.push("--inh-caps=-all".to_owned());
    }
    if is(|context| context.allow_privilege_escalation) == Some(false) {
        words.push("--no-new-privs".to_owned());
    }
    if let Some(user) = context
        .and_then(|context| context.run_as_user)
        .filter(|user| *user != 0)
    {
        words.extend([
            format!("--reuid={user}"),
            format!("--regid={user}"),
            "--clear-groups".to_owned(),
        ]);
    }
    words.push("--".to_owned());
    Ok(words)
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
