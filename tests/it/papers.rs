//! The papers keep up with the code.

use ingress_core::reason::Reason;

#[test]
fn the_troubleshooting_page_has_a_row_for_every_reason_code() {
    let page = include_str!("../../docs/troubleshooting.md");
    for reason in Reason::ALL {
        let cell = format!("| `{}` |", reason.code());
        assert!(
            page.contains(&cell),
            "docs/troubleshooting.md has no row for {cell}"
        );
    }
}
