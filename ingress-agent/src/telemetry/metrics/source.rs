//! The metrics of the cluster source.

use super::text::{Labels, Page};
use crate::source::cluster::counts::SourceCounts;
use crate::source::cluster::resource::Resource;

type Count = fn(&SourceCounts, Resource) -> u64;

pub(super) fn render(page: &mut Page, counts: &SourceCounts) {
    page.single(
        "ingress_agent_source_connected",
        "gauge",
        "1 while every watch of the API server is up.",
        u8::from(counts.is_connected()),
    );
    page.single(
        "ingress_agent_source_disconnected_since_timestamp_seconds",
        "gauge",
        "Since when one is not; 0 while all are.",
        counts.disconnected_since(),
    );
    page.single(
        "ingress_agent_source_stored_state_timestamp_seconds",
        "gauge",
        "When the state in force was saved, while it is the one kept on this node; 0 while it is the cluster's own.",
        counts.stored(),
    );
    page.single(
        "ingress_agent_source_states_total",
        "counter",
        "States of the cluster put together from what the watches told.",
        counts.publications(),
    );
    let families: [(&str, &str, Count); 3] = [
        (
            "ingress_agent_source_events_total",
            "Changes that watches told, by resource.",
            SourceCounts::events,
        ),
        (
            "ingress_agent_source_lists_total",
            "Whole lists received, the first and later ones, by resource.",
            SourceCounts::lists,
        ),
        (
            "ingress_agent_source_failures_total",
            "Lists and watches that failed, by resource.",
            SourceCounts::failures,
        ),
    ];
    for (name, help, count) in families {
        page.family(name, "counter", help);
        for resource in Resource::ALL {
            let labels = Labels::new().with("resource", resource.as_str());
            page.sample(name, &labels, None, count(counts, resource));
        }
    }
}
