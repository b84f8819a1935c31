//! The setting that keeps the whole process within its memory.

use clap::Args;

use crate::config::MemoryLimit;

#[derive(Debug, Args)]
pub(super) struct OverloadFlags {
    /// Resident memory that the process may have (in bytes, or `512m`, `2g`: powers of 1024; `auto` for what its cgroup allows, `off`). From nine tenths of it new connections and
    /// requests are answered 503 `overloaded`, so that those that are open may end.
    #[arg(long, value_name = "SIZE", env = "INGRESS_AGENT_MEMORY_LIMIT", default_value = "auto", value_parser = memory_limit)]
    pub(super) memory_limit: MemoryLimit,
}

fn memory_limit(text: &str) -> Result<MemoryLimit, String> {
    match text {
        "auto" => Ok(MemoryLimit::Auto),
        "off" => Ok(MemoryLimit::Off),
        size => bytes(size)
            .map(MemoryLimit::Bytes)
            .ok_or_else(|| format!("expected a size from 16m to 1024g, auto or off, found {text:?}")),
    }
}

/// Less than this the agent needs with nothing to do.
const LEAST: usize = 16 << 20;
const MOST: usize = 1 << 40;

/// `268435456`, `262144k`, `256m`, `2g`: in powers of 1024.
fn bytes(text: &str) -> Option<usize> {
    let units = [('k', 10), ('m', 20), ('g', 30)];
    let unit = units
        .iter()
        .find(|(letter, _)| text.to_ascii_lowercase().ends_with(*letter));
    let (number, shift) = match unit {
        Some((_, shift)) => (text.get(..text.len().checked_sub(1)?)?, *shift),
        None => (text, 0),
    };
    let bytes = number.parse::<usize>().ok()?.checked_mul(1 << shift)?;
    (LEAST..=MOST).contains(&bytes).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_limit_is_a_size_or_auto_or_off() {
        assert_eq!(memory_limit("auto"), Ok(MemoryLimit::Auto));
        assert_eq!(memory_limit("off"), Ok(MemoryLimit::Off));
        assert_eq!(memory_limit("256m"), Ok(MemoryLimit::Bytes(256 << 20)));
        assert_eq!(memory_limit("2G"), Ok(MemoryLimit::Bytes(2 << 30)));
        assert_eq!(memory_limit("268435456"), Ok(MemoryLimit::Bytes(256 << 20)));
        for bad in ["", "m", "15m", "2t", "-1", "99999999999999999999", "1025g"] {
            assert!(memory_limit(bad).is_err(), "{bad}");
        }
    }
}
