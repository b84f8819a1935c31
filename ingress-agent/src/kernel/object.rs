//! The eBPF object that the agent carries, and how it is loaded.

use aya::{Ebpf, EbpfLoader};

use super::trouble::{Hook, Step, Trouble};

/// `cargo xtask ebpf` makes it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../ingress-ebpf/prebuilt/ingress.bpf.o"
));

/// Creates the maps; programs are loaded one by one by their hooks.
pub(super) fn load(hook: Hook) -> Result<Ebpf, Trouble> {
    // The kernel's own type information is not asked for: no program here depends on the layout of kernel structures.
    EbpfLoader::new()
        .btf(None)
        .load(OBJECT)
        .map_err(|error| Trouble::from_aya(hook, Step::Maps, &error))
}
