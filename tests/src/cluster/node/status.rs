//! What the node says of a Pod.

use std::net::Ipv4Addr;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// A container as its status shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ContainerState {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) is_ready: bool,
    pub(super) restarts: u32,
    /// Since when it runs; else why it does not.
    pub(super) running: Result<String, Reason>,
}

/// A reason in one word, and a sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Default for ContainerState {
    fn default() -> Self {
        Self {
            name: String::new(),
            image: String::new(),
            is_ready: false,
            restarts: 0,
            running: Err(Reason {
                reason: "ContainerCreating",
                message: String::new(),
            }),
        }
    }
}

/// Everything that changes in the life of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodState {
    pub(super) address: Option<Ipv4Addr>,
    pub(super) host: Ipv4Addr,
    pub(super) started: String,
    /// When it became what it is: a DaemonSet counts its minReadySeconds from here.
    pub(super) ready_since: String,
    pub(super) containers: Vec<ContainerState>,
}

impl PodState {
    pub(super) fn is_ready(&self) -> bool {
        self.containers.iter().all(|container| container.is_ready)
    }

    pub(super) fn to_json(&self) -> Value {
        let is_running = self.containers.iter().all(|container| container.running.is_ok());
        let condition = |kind: &str, is: bool, since: &str| json!({"type": kind, "status": if is { "True" } else { "False" }, "lastTransitionTime": since});
        let ready = self.is_ready();
        let mut status = json!({
            "phase": if is_running { "Running" } else { "Pending" },
            "hostIP": self.host, "hostIPs": [{"ip": self.host}], "startTime": self.started,
            "conditions": [
                condition("PodScheduled", true, &self.started),
                condition("Initialized", true, &self.started),
                condition("ContainersReady", ready, &self.ready_since),
                condition("Ready", ready, &self.ready_since),
            ],
            "containerStatuses": self.containers.iter().map(ContainerState::to_json).collect::<Vec<_>>(),
        });
        if let Some(address) = self.address {
            status["podIP"] = json!(address);
            status["podIPs"] = json!([{"ip": address}]);
        }
        json!({ "status": status })
    }
}

impl ContainerState {
    fn to_json(&self) -> Value {
        let state = match &self.running {
            Ok(since) => json!({"running": {"startedAt": since}, "waiting": null}),
            Err(why) => json!({"waiting": {"reason": why.reason, "message": why.message}, "running": null}),
        };
        json!({"name": self.name, "image": self.image, "imageID": "", "ready": self.is_ready,
            "started": self.running.is_ok(), "restartCount": self.restarts, "state": state})
    }
}

/// RFC 3339, in seconds.
pub(super) fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The same with microseconds, as a Lease has it.
pub(super) fn now_precisely() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
