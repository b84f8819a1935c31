//! What the watches have told, put together. Pure: news in, objects out.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::resource::{Resource, Scope};
use super::watch::{FeedId, News};
use crate::objects::{Key, Objects, Set};
use crate::source::manifest::object::Object;

/// Everything known.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// `secrets` are those of type `kubernetes.io/tls` alone.
    objects: Objects,
    /// Secrets that are watched one by one. One may be in both: when its type changes, the two watches tell in any order.
    single_secrets: Set<k8s_openapi::api::core::v1::Secret>,
    feeds: BTreeMap<FeedId, Feed>,
}

#[derive(Debug)]
struct Feed {
    scope: Scope,
    is_complete: bool,
}

/// What a piece of news changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Touched {
    Nothing,
    /// EndpointSlices alone.
    Endpoints,
    /// Other objects.
    Rules,
}

/// Runs an expression on the set that holds objects of a resource.
macro_rules! in_set {
    ($store:expr, $resource:expr, $set:ident => $result:expr) => {
        match $resource {
            Resource::Ingresses => {
                let $set = &mut $store.objects.ingresses;
                $result
            }
            Resource::IngressClasses => {
                let $set = &mut $store.objects.ingress_classes;
                $result
            }
            Resource::Services => {
                let $set = &mut $store.objects.services;
                $result
            }
            Resource::EndpointSlices => {
                let $set = &mut $store.objects.endpoint_slices;
                $result
            }
            Resource::TlsSecrets => {
                let $set = &mut $store.objects.secrets;
                $result
            }
            Resource::Secret => {
                let $set = &mut $store.single_secrets;
                $result
            }
            Resource::ConfigMap => {
                let $set = &mut $store.objects.config_maps;
                $result
            }
            Resource::Namespaces => {
                let $set = &mut $store.objects.namespaces;
                $result
            }
            Resource::Node => {
                let $set = &mut $store.objects.nodes;
                $result
            }
        }
    };
}

impl Store {
    pub(super) fn add(&mut self, id: FeedId, scope: Scope) {
        let is_complete = false;
        self.feeds.insert(id, Feed { scope, is_complete });
    }

    /// The watch has ended because nobody needs what it covered.
    pub(super) fn remove(&mut self, id: FeedId) -> Touched {
        match self.feeds.remove(&id) {
            Some(feed) => self.replace(&feed.scope, Vec::new()),
            None => Touched::Nothing,
        }
    }

    pub(super) fn scope(&self, id: FeedId) -> Option<&Scope> {
        self.feeds.get(&id).map(|feed| &feed.scope)
    }

    /// The watches that have not given a whole list yet.
    pub(super) fn incomplete(&self) -> impl Iterator<Item = &Scope> {
        let waiting = self.feeds.values().filter(|feed| !feed.is_complete);
        waiting.map(|feed| &feed.scope)
    }

    /// Late news of a watch that was ended say nothing.
    pub(super) fn apply(&mut self, id: FeedId, news: News) -> Touched {
        let Some(feed) = self.feeds.get_mut(&id) else {
            return Touched::Nothing;
        };
        match news {
            News::All(all) => {
                let was_complete = std::mem::replace(&mut feed.is_complete, true);
                let scope = feed.scope.clone();
                let touched = self.replace(&scope, all);
                // An empty list is news, when it is what everybody waits for.
                if was_complete { touched } else { Touched::Rules }
            }
            News::Set(object) => {
                let resource = feed.scope.resource;
                if self.set(resource, object) {
                    touched(resource)
                } else {
                    Touched::Nothing
                }
            }
            News::Gone(key) => {
                let resource = feed.scope.resource;
                let was_there =
                    in_set!(self, resource, set => set.contains_key(&key) && set.remove(&key).is_some());
                if was_there {
                    touched(resource)
                } else {
                    Touched::Nothing
                }
            }
            // Nobody waits for a single object that can't be had: the rest is served without it.
            News::Failed(failure) if feed.scope.can_be_missing(&failure) && !feed.is_complete => {
                feed.is_complete = true;
                Touched::Rules
            }
            News::Failed(_) | News::Well => Touched::Nothing,
        }
    }

    /// Cheap where nothing changed since the last time.
    pub(super) fn objects(&self) -> Objects {
        let mut objects = self.objects.clone();
        for (key, secret) in &self.single_secrets {
            if !objects.secrets.contains_key(key) {
                objects.secrets.insert(key.clone(), Arc::clone(secret));
            }
        }
        objects
    }

    pub(super) fn endpoint_slices(&self) -> Set<k8s_openapi::api::discovery::v1::EndpointSlice> {
        self.objects.endpoint_slices.clone()
    }

    /// Whether the watch of all TLS Secrets has it.
    pub(super) fn has_tls_secret(&self, key: &Key) -> bool {
        self.objects.secrets.contains_key(key)
    }

    /// What the list has not, is gone; what it has unchanged keeps its identity.
    fn replace(&mut self, scope: &Scope, all: Vec<Object>) -> Touched {
        let listed: std::collections::BTreeSet<Key> = all.iter().map(key_of).collect();
        let mut changed = false;
        in_set!(self, scope.resource, set => {
            let is_gone = |key: &Key| scope.covers(&key.namespace, &key.name) && !listed.contains(key);
            if set.keys().any(is_gone) {
                set.retain(|key, _| !is_gone(key));
                changed = true;
            }
        });
        for object in all {
            changed |= self.set(scope.resource, object);
        }
        if changed {
            touched(scope.resource)
        } else {
            Touched::Nothing
        }
    }

    /// Whether that changed anything.
    fn set(&mut self, resource: Resource, object: Object) -> bool {
        let key = key_of(&object);
        match object {
            Object::Ingress(new) => put(&mut self.objects.ingresses, key, new),
            Object::IngressClass(new) => put(&mut self.objects.ingress_classes, key, new),
            Object::Service(new) => put(&mut self.objects.services, key, new),
            Object::EndpointSlice(new) => put(&mut self.objects.endpoint_slices, key, new),
            Object::Secret(new) if resource == Resource::Secret => put(&mut self.single_secrets, key, new),
            Object::Secret(new) => put(&mut self.objects.secrets, key, new),
            Object::ConfigMap(new) => put(&mut self.objects.config_maps, key, new),
            Object::Namespace(new) => put(&mut self.objects.namespaces, key, new),
            Object::Node(new) => put(&mut self.objects.nodes, key, new),
        }
    }
}

fn put<T: PartialEq>(set: &mut Set<T>, key: Key, new: Arc<T>) -> bool {
    if set.get(&key).is_some_and(|old| **old == *new) {
        return false;
    }
    set.insert(key, new);
    true
}

fn key_of(object: &Object) -> Key {
    let metadata = object.metadata();
    Key::new(
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

fn touched(resource: Resource) -> Touched {
    match resource {
        Resource::EndpointSlices => Touched::Endpoints,
        _ => Touched::Rules,
    }
}

#[cfg(test)]
mod tests;
