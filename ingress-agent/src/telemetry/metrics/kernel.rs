//! What is on in the kernel, and what it did there.

use super::text::{Labels, Page};
use crate::kernel::KernelView;

pub(super) fn render(page: &mut Page, view: &KernelView) {
    page.family(
        "ingress_agent_kernel_hook",
        "gauge",
        "1 for what is on in the kernel, 0 for what is off; the admin page /kernel says why.",
    );
    let hook = Labels::new().with("hook", "steering");
    page.sample(
        "ingress_agent_kernel_hook",
        &hook,
        None,
        u8::from(view.steering.on),
    );
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
