//! A sample of rejected traffic, from the bytes that the kernel's side wrote. Names are a stranger's words: shown escaped.

use std::net::{IpAddr, Ipv6Addr};

use ingress_common::verdict::{SAMPLE_NAME, Verdict};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) source: IpAddr,
    pub(super) interface: u32,
    pub(super) verdict: &'static str,
    pub(super) port: u16,
    pub(super) rejected: bool,
    pub(super) name: String,
}

impl Sample {
    /// Laid out as [`ingress_common::verdict::Sample`]; None for anything else.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (source, rest) = bytes.split_first_chunk::<16>()?;
        let (interface, rest) = rest.split_first_chunk::<4>()?;
        let (verdict, rest) = rest.split_first_chunk::<4>()?;
        let (port, rest) = rest.split_first_chunk::<2>()?;
        let (rejected, rest) = rest.split_first_chunk::<2>()?;
        let (len, name) = rest.split_first_chunk::<4>()?;
        let len = usize::try_from(u32::from_ne_bytes(*len)).ok()?.min(SAMPLE_NAME);
        let index = usize::try_from(u32::from_ne_bytes(*verdict)).ok()?;
        Some(Self {
            source: Ipv6Addr::from(*source).to_canonical(),
            interface: u32::from_ne_bytes(*interface),
            verdict: Verdict::ALL.get(index)?.code(),
            port: u16::from_ne_bytes(*port),
            rejected: u16::from_ne_bytes(*rejected) != 0,
            name: name.get(..len)?.escape_ascii().to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_read_as_the_kernels_side_lays_it_out_and_its_name_is_escaped() {
        let mut bytes = Vec::from(ingress_common::packet::mapped([192, 0, 2, 1]));
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend((Verdict::TlsNameUnknown as u32).to_ne_bytes());
        bytes.extend(443u16.to_ne_bytes());
        bytes.extend(1u16.to_ne_bytes());
        bytes.extend(4u32.to_ne_bytes());
        bytes.extend(b"a\n\x1bbcd");
        bytes.resize(size_of::<ingress_common::verdict::Sample>(), 0);
        let sample = Sample::read(&bytes).unwrap();
        assert_eq!(sample.source, "192.0.2.1".parse::<IpAddr>().unwrap());
        assert_eq!(
            (sample.interface, sample.verdict, sample.port),
            (7, "tls_name_unknown", 443)
        );
        assert_eq!((sample.rejected, &*sample.name), (true, "a\\n\\x1bb"));
        assert_eq!(Sample::read(&bytes[..30]), None);
    }
}
