//! Packets by interface and verdict, also of interfaces that are gone: one that vanishes and returns has another index in the kernel, and to
//! those who read the counts it is the same one.

use std::collections::BTreeMap;

use ingress_common::verdict::{CountKey, Verdict};

use super::view::CountView;

/// What interfaces counted that are gone. Bounded, whatever they were called.
#[derive(Debug, Default)]
pub(super) struct Tally(BTreeMap<(String, u32), u64>);

/// Names and verdicts; of more, the sums stand under [`OTHERS`].
const MOST: usize = 1024;
/// No interface that was made in the ordinary way is called that.
const OTHERS: &str = "_other";

impl Tally {
    /// This interface is gone, and so will its count be in the kernel.
    pub(super) fn keep(&mut self, interface: String, verdict: u32, packets: u64) {
        let mut place = (interface, verdict);
        if self.0.len() >= MOST && !self.0.contains_key(&place) {
            place.0 = OTHERS.to_owned();
        }
        let kept = self.0.entry(place).or_default();
        *kept = kept.saturating_add(packets);
    }

    /// Together with what the kernel's table has now; each interface and verdict once.
    pub(super) fn with(&self, now: &[(CountKey, u64)], name: impl Fn(u32) -> String) -> Vec<CountView> {
        let mut all = self.0.clone();
        for (key, packets) in now {
            let sum = all.entry((name(key.interface), key.verdict)).or_default();
            *sum = sum.saturating_add(*packets);
        }
        let view = |((interface, verdict), packets): ((String, u32), u64)| {
            let verdict = Verdict::ALL.get(usize::try_from(verdict).ok()?)?;
            Some(CountView {
                interface,
                verdict: verdict.code().to_owned(),
                packets,
            })
        };
        let mut views: Vec<_> = all.into_iter().filter_map(view).collect();
        views.sort();
        views
    }

    /// First segments that name what nobody serves; together with those that the kernel's table has now.
    pub(super) fn unmatched(&self, now: &[(CountKey, u64)]) -> u64 {
        let kept = self.0.iter().map(|((_, verdict), packets)| (*verdict, *packets));
        let all = kept.chain(now.iter().map(|(key, packets)| (key.verdict, *packets)));
        all.filter(|(verdict, _)| UNMATCHED.contains(verdict))
            .fold(0, |sum, (_, packets)| sum.saturating_add(packets))
    }
}

const UNMATCHED: [u32; 3] = [
    Verdict::TlsNameUnknown as u32,
    Verdict::HttpHostUnknown as u32,
    Verdict::MalformedHello as u32,
];

#[cfg(test)]
mod tests {
    use super::*;

    const fn key(interface: u32, verdict: Verdict) -> CountKey {
        CountKey {
            interface,
            verdict: verdict as u32,
        }
    }

    #[test]
    fn an_interface_that_vanished_and_returned_is_shown_once_and_its_count_never_goes_down() {
        let mut tally = Tally::default();
        let name = |_| "eth0".to_owned();
        let before = [(key(7, Verdict::TlsNameUnknown), 5)];
        assert_eq!(tally.with(&before, name)[0].packets, 5);
        tally.keep("eth0".to_owned(), Verdict::TlsNameUnknown as u32, 5);
        assert_eq!((tally.with(&[], name)[0].packets, tally.unmatched(&[])), (5, 5));
        let now = [
            (key(9, Verdict::TlsNameUnknown), 2),
            (key(9, Verdict::NameKnown), 1),
        ];
        let views = tally.with(&now, name);
        assert_eq!(views.len(), 2, "{views:?}");
        assert_eq!((views[1].packets, tally.unmatched(&now)), (7, 7));
    }

    #[test]
    fn interfaces_of_ever_new_names_take_no_more_memory_than_there_is_for_them() {
        let mut tally = Tally::default();
        for number in 0..5000 {
            tally.keep(format!("veth{number}"), Verdict::NameKnown as u32, 1);
        }
        let views = tally.with(&[], |_| unreachable!());
        assert!(views.len() <= MOST + Verdict::ALL.len(), "{}", views.len());
        assert_eq!(views.iter().map(|view| view.packets).sum::<u64>(), 5000);
    }
}
