//! The eBPF object that the agent carries, and how a hook loads its part of it.

mod part;

use aya::maps::Map;
use aya::{Ebpf, EbpfLoader};

use super::trouble::{Hook, Step, Trouble};

/// `cargo xtask ebpf` makes it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../ingress-ebpf/prebuilt/ingress.bpf.o"
));

/// Creates the maps that the hook names (and the programs' constants), and no others: a hook that this kernel can't have, or may not, takes
/// nothing from the others. Programs are loaded one by one by their hooks; one that uses a map which is not named is refused.
pub(super) fn load(hook: Hook, maps: &[&str]) -> Result<Ebpf, Trouble> {
    let part = part::with_maps(OBJECT, maps)
        .ok_or_else(|| Trouble::unfit(hook, Step::Maps, "the object is not an ELF file as it should be"))?;
    // The kernel's own type information is not asked for: no program here depends on the layout of kernel structures.
    EbpfLoader::new()
        .btf(None)
        .load(&part)
        .map_err(|error| Trouble::from_aya(hook, Step::Maps, &error))
}

/// A map of a hook's part, as what it is.
pub(super) fn take<M: TryFrom<Map, Error: std::error::Error + 'static>>(
    hook: Hook,
    ebpf: &mut Ebpf,
    name: &str,
) -> Result<M, Trouble> {
    let map = ebpf
        .take_map(name)
        .ok_or_else(|| Trouble::unfit(hook, Step::Maps, format!("the object has no map {name}")))?;
    M::try_from(map).map_err(|error| Trouble::from_aya(hook, Step::Maps, &error))
}
