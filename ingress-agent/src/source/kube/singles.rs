//! Objects that are asked for one by one, because something names them: what to begin, and what to end.

use std::collections::BTreeMap;

use tokio::task::AbortHandle;

use super::resource::Resource;
use super::watch::FeedId;
use crate::objects::Key;
use crate::translate::References;

/// Watches of single objects; further ones are asked for now and then. Each is a stream on the one connection, which has about 100.
const MAX_WATCHES: usize = 40;

/// Those that are under way.
#[derive(Debug, Default)]
pub(super) struct Singles {
    running: BTreeMap<(Resource, Key), Running>,
}

#[derive(Debug)]
struct Running {
    id: FeedId,
    task: AbortHandle,
    polled: bool,
}

/// One to begin.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) resource: Resource,
    pub(super) key: Key,
    /// Asked for now and then, and not watched.
    pub(super) polled: bool,
}

#[derive(Debug, Default)]
pub(super) struct Orders {
    pub(super) begin: Vec<Want>,
    pub(super) end: Vec<(FeedId, AbortHandle)>,
}

impl Singles {
    /// Exactly these are asked for from now on; with `poll_secrets`, Secrets are never watched.
    pub(super) fn want(&mut self, named: &References, poll_secrets: bool) -> Orders {
        let is_named = |(resource, key): &(Resource, Key)| match resource {
            Resource::ConfigMap => named.config_maps.contains(key),
            _ => named.secrets.contains(key),
        };
        let mut orders = Orders::default();
        let ended = self.running.extract_if(.., |wanted, _| !is_named(wanted));
        orders
            .end
            .extend(ended.map(|(_, running)| (running.id, running.task)));
        let secrets = named.secrets.iter().map(|key| (Resource::Secret, key));
        let config_maps = named.config_maps.iter().map(|key| (Resource::ConfigMap, key));
        let mut watches = self.running.values().filter(|running| !running.polled).count();
        for (resource, key) in secrets.chain(config_maps) {
            if self.running.contains_key(&(resource, key.clone())) {
                continue;
            }
            let polled = (poll_secrets && resource == Resource::Secret) || watches >= MAX_WATCHES;
            watches += usize::from(!polled);
            orders.begin.push(Want {
                resource,
                key: key.clone(),
                polled,
            });
        }
        orders
    }

    pub(super) fn begun(&mut self, want: Want, (id, task): (FeedId, AbortHandle)) {
        let polled = want.polled;
        self.running
            .insert((want.resource, want.key), Running { id, task, polled });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(secrets: std::ops::Range<usize>, config_maps: usize) -> References {
        let key = |kind: &str, index: usize| Key::new("shop", format!("{kind}{index}"));
        References {
            secrets: secrets.map(|index| key("secret", index)).collect(),
            config_maps: (0..config_maps).map(|index| key("map", index)).collect(),
        }
    }

    fn begin(singles: &mut Singles, orders: Orders) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for (id, want) in orders.begin.into_iter().enumerate() {
            let task = runtime.spawn(std::future::pending::<()>()).abort_handle();
            singles.begun(want, (id, task));
        }
    }

    #[test]
    fn each_is_begun_once_and_ended_when_nothing_names_it_any_more() {
        let mut singles = Singles::default();
        let orders = singles.want(&named(0..2, 1), false);
        assert_eq!((orders.begin.len(), orders.end.len()), (3, 0));
        begin(&mut singles, orders);
        let orders = singles.want(&named(1..3, 1), false);
        assert_eq!((orders.begin.len(), orders.end.len()), (1, 1));
        assert_eq!(orders.begin[0].key.name, "secret2");
    }

    #[test]
    fn what_is_too_much_to_watch_is_polled() {
        let orders = Singles::default().want(&named(0..100, 10), false);
        let watched = orders.begin.iter().filter(|want| !want.polled).count();
        assert_eq!((watched, orders.begin.len()), (MAX_WATCHES, 110));
    }

    #[test]
    fn without_the_right_to_watch_secrets_they_are_all_polled_and_config_maps_are_watched() {
        let orders = Singles::default().want(&named(0..3, 1), true);
        let polled: Vec<_> = orders.begin.iter().map(|want| want.polled).collect();
        assert_eq!(polled, [true, true, true, false]);
    }
}
