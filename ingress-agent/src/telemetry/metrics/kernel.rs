//! What is on in the kernel, and what it did there.

use std::collections::BTreeMap;

use super::text::{Labels, Page};
use crate::kernel::KernelView;

pub(super) fn render(page: &mut Page, view: &KernelView) {
    page.family(
        "ingress_agent_kernel_hook",
        "gauge",
        "1 for what is on in the kernel, 0 for what is off; the admin page /kernel says why.",
    );
    let at_work = |program: &str| {
        let mut interfaces = view.rejection.interfaces.iter();
        view.rejection.on && interfaces.any(|at| at.by.split(' ').any(|word| word == program))
    };
    for (hook, on) in [
        ("steering", view.steering.on),
        ("rejection", view.rejection.on),
        ("tc", at_work("tc")),
        ("xdp", at_work("xdp")),
        ("accounting", view.accounting.on),
    ] {
        let hook = Labels::new().with("hook", hook);
        page.sample("ingress_agent_kernel_hook", &hook, None, u8::from(on));
    }
    rejection(page, view);
    queues(page, view);
    page.family(
        "ingress_agent_steering_connections_total",
        "counter",
        "New connections to steered addresses: steered to this agent, left to whoever else has the port, unclaimed by any worker, or refused.",
    );
    for address in &view.addresses {
        let labels = Labels::new().with("address", &address.address.to_string());
        let verdicts = [
            ("steered", address.steered),
            ("left", address.left),
            ("unclaimed", address.unclaimed),
            ("refused", address.refused),
        ];
        for (verdict, count) in verdicts {
            page.sample(
                "ingress_agent_steering_connections_total",
                &labels,
                Some(("verdict", verdict)),
                count,
            );
        }
    }
}

/// Interfaces are those that packets are judged on: bounded.
fn rejection(page: &mut Page, view: &KernelView) {
    page.family(
        "ingress_agent_kernel_verdicts_total",
        "counter",
        "Packets that early rejection judged, by interface and verdict; whether a verdict rejects or only counts is on the admin page /kernel.",
    );
    for count in &view.rejection.counts {
        let labels = Labels::new().with("interface", &count.interface);
        page.sample(
            "ingress_agent_kernel_verdicts_total",
            &labels,
            Some(("verdict", &count.verdict)),
            count.packets,
        );
    }
}

/// By kind of listener, of which there are two.
fn queues(page: &mut Page, view: &KernelView) {
    const WAITING: &str = "ingress_agent_tcp_listen_waiting";
    const MOST: &str = "ingress_agent_tcp_listen_most_waiting";
    const ROOM: &str = "ingress_agent_tcp_listen_room";
    const DROPPED: &str = "ingress_agent_tcp_listen_dropped_total";
    let mut kinds: BTreeMap<&str, [u64; 4]> = BTreeMap::new();
    for queue in &view.queues.listeners {
        let [waiting, most, room, dropped] = kinds.entry(&queue.listener).or_default();
        *waiting += queue.waiting;
        *most = (*most).max(queue.most.into());
        *room = (*room).max(queue.room.into());
        *dropped += queue.dropped;
    }
    let families = [
        (WAITING, "gauge", "Connections that wait to be accepted, now."),
        (
            MOST,
            "gauge",
            "The most that was seen to wait at one socket since the start.",
        ),
        (ROOM, "gauge", "How many may wait at one socket."),
        (
            DROPPED,
            "counter",
            "Connections, and requests for one, that the kernel dropped at a listener: no room, or nobody where they say they come from.",
        ),
    ];
    for (at, (name, kind, help)) in families.into_iter().enumerate() {
        page.family(name, kind, help);
        for (listener, figures) in &kinds {
            let labels = Labels::new().with("listener", listener);
            page.sample(name, &labels, None, figures.get(at).copied().unwrap_or_default());
        }
    }
    page.family(
        "ingress_agent_tcp_listen_events_total",
        "counter",
        "What the kernel counts of listeners' queues in the agent's whole network namespace, since the agent started, by the names of nstat.",
    );
    for (event, count) in &view.queues.events {
        page.sample(
            "ingress_agent_tcp_listen_events_total",
            &Labels::new(),
            Some(("event", event)),
            *count,
        );
    }
}
