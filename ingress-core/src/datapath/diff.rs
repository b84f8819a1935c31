//! From one state of the tables to the next without ever rejecting what either allows: everything that lets more through goes in
//! before the new snapshot is published, everything that lets less through after.

use ingress_common::names::NameKey;
use ingress_common::verdict::{DENIED, Judged, NODE_LIST};

use super::{Contents, Network, Place};

/// One write to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    AddName(NameKey),
    RemoveName(NameKey),
    Judge(Place, Judged),
    LeaveAlone(Place),
    List(Network, u32),
    Unlist(Network),
    AddIngress([u8; 16]),
    RemoveIngress([u8; 16]),
    AllowList(bool),
}

/// What to write, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Before the new snapshot is in force.
    pub before: Vec<Operation>,
    /// After, and only when all of `before` succeeded.
    pub after: Vec<Operation>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }
}

/// The way from `previous` to `next`.
pub fn diff(previous: &Contents, next: &Contents) -> Changes {
    let mut changes = Changes::default();
    judged(previous, next, &mut changes);
    names(previous, next, &mut changes);
    sources(previous, next, &mut changes);
    ingress(previous, next, &mut changes);
    changes
}

fn names(previous: &Contents, next: &Contents, changes: &mut Changes) {
    let new = next.names.difference(&previous.names);
    let gone = previous.names.difference(&next.names);
    changes.before.extend(new.copied().map(Operation::AddName));
    changes.after.extend(gone.copied().map(Operation::RemoveName));
}

fn judged(previous: &Contents, next: &Contents, changes: &mut Changes) {
    for (place, old) in &previous.judged {
        match next.judged.get(place) {
            None => changes.before.push(Operation::LeaveAlone(*place)),
            Some(new) if new != old => {
                changes
                    .before
                    .push(Operation::Judge(*place, the_milder(*old, *new)));
            }
            Some(_) => {}
        }
    }
    let to_write = next
        .judged
        .iter()
        .filter(|(place, new)| previous.judged.get(place) != Some(new));
    changes
        .after
        .extend(to_write.map(|(place, new)| Operation::Judge(*place, *new)));
}

/// What both would let through, passes; a list that is not the same one is not asked.
fn the_milder(old: Judged, new: Judged) -> Judged {
    Judged {
        list: if old.list == new.list { old.list } else { NODE_LIST },
        flags: if old.list == new.list {
            old.flags & new.flags
        } else {
            old.flags & new.flags & !ingress_common::verdict::JUDGE_ALLOW_LIST
        },
    }
}

fn sources(previous: &Contents, next: &Contents, changes: &mut Changes) {
    if previous.allow_list != next.allow_list {
        let operation = Operation::AllowList(next.allow_list);
        let phase = if next.allow_list {
            &mut changes.after
        } else {
            &mut changes.before
        };
        phase.push(operation);
    }
    for (network, old) in &previous.sources {
        if !next.sources.contains_key(network) {
            let phase = if *old == DENIED {
                &mut changes.before
            } else {
                &mut changes.after
            };
            phase.push(Operation::Unlist(*network));
        }
    }
    for (network, new) in &next.sources {
        let old = previous.sources.get(network);
        if old == Some(new) {
            continue;
        }
        // An entry that says more for the source than the one before it goes first.
        let phase = if *new == DENIED || old.is_some_and(|old| *old > *new) {
            &mut changes.after
        } else {
            &mut changes.before
        };
        phase.push(Operation::List(*network, *new));
    }
}

fn ingress(previous: &Contents, next: &Contents, changes: &mut Changes) {
    let gone = previous.ingress.difference(&next.ingress);
    let new = next.ingress.difference(&previous.ingress);
    changes.before.extend(gone.copied().map(Operation::RemoveIngress));
    changes.after.extend(new.copied().map(Operation::AddIngress));
}
