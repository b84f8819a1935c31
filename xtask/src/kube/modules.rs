//! Go modules as `go` downloads them: for what tests take from a module's files.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use serde::Deserialize;

use super::Extra;
use super::build::find_go;
use crate::workspace;

const OPERATOR: &str = "github.com/prometheus-operator/prometheus-operator";
const POD_MONITORS: &str = "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml";

/// The definition of PodMonitor, as its makers publish it.
pub(crate) fn pod_monitors() -> anyhow::Result<Extra> {
    if let Err(why) = find_go("it is a file of a Go module") {
        return Ok(Extra::Missing(format!("{why:#}")));
    }
    let place = workspace::root().join("tests/kube-lab/prometheus-operator");
    Ok(match download(OPERATOR, &place)? {
        Ok(folder) => Extra::Built(folder.join(POD_MONITORS)),
        Err(why) => Extra::Missing(why),
    })
}

/// What `go mod download -json` prints of a module.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Downloaded {
    dir: Option<PathBuf>,
    error: Option<String>,
}

/// The folder of a module, or why it can't be had. In a folder with a `go.mod` its version is the pinned one, and compared with `go.sum`.
pub(super) fn download(module: &str, place: &Path) -> anyhow::Result<Result<PathBuf, String>> {
    let output = Command::new("go")
        .args(["mod", "download", "-json", module])
        .current_dir(place)
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let module: Downloaded = serde_json::from_slice(&output.stdout).with_context(|| said)?;
    Ok(match (module.dir, module.error) {
        (Some(dir), None) => Ok(dir),
        (_, error) => Err(error.unwrap_or_default().replace(['\n', '\t'], " ")),
    })
}
