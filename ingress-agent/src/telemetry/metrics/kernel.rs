//! What is on in the kernel, and what it did there.

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
