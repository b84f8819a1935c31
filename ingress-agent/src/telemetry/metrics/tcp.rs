//! What TCP did, by Ingress (clients) and by Service (endpoints): counted in the kernel where that is on, sampled in any case.

use std::collections::BTreeMap;

use ingress_common::account::{
    BUCKETS, BYTES_IN, BYTES_OUT, LASTED, LEAST_RTT, RETRANSMITS, RTT, SEGMENTS_IN, SEGMENTS_OUT, SETUP,
};
use ingress_core::slow::Times;

use super::text::{Labels, Page};
use crate::account::{Ends, TcpTotals, Totals};

/// One side of the agent, as its metrics name it.
struct Side<'a> {
    name: &'static str,
    label: &'static str,
    /// What `setup` is here.
    setup: (&'static str, &'static str),
    all: &'a BTreeMap<(String, String), Totals>,
}

pub(super) fn render(page: &mut Page, totals: &TcpTotals) {
    let sides = [
        Side {
            name: "client",
            label: "ingress",
            setup: (
                "accept_delay",
                "Time from a client's handshake to the moment the agent accepted it.",
            ),
            all: &totals.client,
        },
        Side {
            name: "backend",
            label: "service",
            setup: (
                "connect_delay",
                "Time from SYN to an established connection with an endpoint.",
            ),
            all: &totals.backend,
        },
    ];
    for side in &sides {
        if totals.counted {
            side.counted(page);
        }
        side.sampled(page);
    }
    if totals.counted {
        untold(page, totals);
    }
}

fn untold(page: &mut Page, totals: &TcpTotals) {
    const NAME: &str = "ingress_agent_tcp_connections_untold_total";
    page.family(
        NAME,
        "counter",
        "Connections that were counted and not told one by one: the buffer was full, or more ended badly or were slow than are told in a second.",
    );
    let reasons = [
        ("buffer_full", totals.untold.buffer_full),
        ("rate", totals.untold.rate),
    ];
    for (reason, count) in reasons {
        page.sample(NAME, &Labels::new(), Some(("reason", reason)), count);
    }
}

impl Side<'_> {
    /// Connections that have ended, as the kernel counted them.
    fn counted(&self, page: &mut Page) {
        self.ends(page);
        self.directions(
            page,
            "bytes",
            "Bytes of connections that have ended.",
            (BYTES_IN, BYTES_OUT),
        );
        let segments = "Segments of connections that have ended.";
        self.directions(page, "segments", segments, (SEGMENTS_IN, SEGMENTS_OUT));
        self.counter(
            page,
            "retransmits",
            "Segments sent again, of connections that have ended.",
            |totals| totals.sums.get(RETRANSMITS).to_string(),
        );
        self.counter(
            page,
            "connected_seconds",
            "Time that connections lasted, once ended.",
            |totals| seconds(totals.sums.get(LASTED)),
        );
        let (setup, help) = self.setup;
        self.histogram(
            page,
            "rtt",
            "Smoothed round trip of a connection at its end.",
            RTT,
        );
        self.histogram(page, "least_rtt", "Least round trip of a connection.", LEAST_RTT);
        self.histogram(page, setup, help, SETUP);
    }

    /// What TCP_INFO said of open connections.
    fn sampled(&self, page: &mut Page) {
        let name = self.metric("sampled_rtt_seconds");
        page.family(
            &name,
            "histogram",
            "Smoothed round trip, sampled at the end of requests.",
        );
        for (labels, totals) in self.each() {
            histogram(page, &name, &labels, &totals.sample.rtt);
        }
        self.counter(
            page,
            "sampled_segments",
            "Segments sent, of connections that are sampled.",
            |totals| totals.sample.segments.to_string(),
        );
        self.counter(
            page,
            "sampled_retransmits",
            "Segments sent again, of those.",
            |totals| totals.sample.retransmits.to_string(),
        );
        let help = "Time that a full receive window on the other side held the agent up, of those.";
        self.counter(page, "sampled_window_limited_seconds", help, |totals| {
            seconds(totals.sample.window_limited)
        });
    }

    fn ends(&self, page: &mut Page) {
        let name = self.metric("connections_total");
        page.family(&name, "counter", "Connections that have ended, by how.");
        for (labels, totals) in self.each() {
            let Ends {
                all,
                failed,
                reset_by_peer,
                reset,
                timed_out,
            } = Ends::of(&totals.sums);
            let finished = all.saturating_sub(failed + reset_by_peer + reset + timed_out);
            let ends = [
                ("finished", finished),
                ("failed", failed),
                ("reset_by_peer", reset_by_peer),
                ("reset", reset),
                ("timed_out", timed_out),
            ];
            for (end, count) in ends {
                page.sample(&name, &labels, Some(("end", end)), count);
            }
        }
    }

    fn directions(&self, page: &mut Page, what: &str, help: &str, (received, sent): (usize, usize)) {
        let name = self.metric(&format!("{what}_total"));
        page.family(&name, "counter", help);
        for (labels, totals) in self.each() {
            for (direction, place) in [("in", received), ("out", sent)] {
                page.sample(
                    &name,
                    &labels,
                    Some(("direction", direction)),
                    totals.sums.get(place),
                );
            }
        }
    }

    fn counter(&self, page: &mut Page, what: &str, help: &str, value: impl Fn(&Totals) -> String) {
        let name = self.metric(&format!("{what}_total"));
        page.family(&name, "counter", help);
        for (labels, totals) in self.each() {
            page.sample(&name, &labels, None, value(totals));
        }
    }

    fn histogram(&self, page: &mut Page, what: &str, help: &str, place: usize) {
        let name = self.metric(&format!("{what}_seconds"));
        page.family(&name, "histogram", help);
        for (labels, totals) in self.each() {
            let times = Times {
                counts: totals.sums.histogram(place),
                micros: totals.sums.total(place),
            };
            histogram(page, &name, &labels, &times);
        }
    }

    fn each(&self) -> impl Iterator<Item = (Labels, &Totals)> {
        self.all.iter().map(|((namespace, name), totals)| {
            let labels = Labels::new().with("namespace", namespace).with(self.label, name);
            (labels, totals)
        })
    }

    fn metric(&self, what: &str) -> String {
        format!("ingress_agent_tcp_{}_{what}", self.name)
    }
}

/// Bounds four times apart, 64 µs to 4 s: all that is kept would be three times the lines.
fn histogram(page: &mut Page, name: &str, labels: &Labels, times: &Times) {
    let count = times.count();
    if count == 0 {
        return;
    }
    let bucket = format!("{name}_bucket");
    let mut so_far = 0;
    for (place, count) in times.counts.iter().enumerate() {
        so_far += count;
        if (6..BUCKETS - 1).contains(&place) && place % 2 == 0 {
            page.sample(&bucket, labels, Some(("le", &seconds(1 << place))), so_far);
        }
    }
    page.sample(&bucket, labels, Some(("le", "+Inf")), count);
    page.sample(&format!("{name}_sum"), labels, None, seconds(times.micros));
    page.sample(&format!("{name}_count"), labels, None, count);
}

fn seconds(micros: u64) -> String {
    super::text::seconds(std::time::Duration::from_micros(micros))
}
