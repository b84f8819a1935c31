//! Who serves an Ingress: ours, another controller's, or nobody's, with the mismatch in words.

use std::collections::BTreeMap;

use ingress_core::diagnostic::Diagnostic;
use ingress_core::name::{Kind, ObjectRef};
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

use super::Options;
use super::notes::{Notes, excerpt};
use crate::objects::Objects;

/// The annotation that came before `spec.ingressClassName`.
pub(super) const LEGACY_ANNOTATION: &str = "kubernetes.io/ingress.class";
const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ownership {
    Ours,
    /// Another controller's: not ours to complain about.
    Theirs,
    Nobody(Mismatch),
}

/// Why nobody serves an Ingress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub(super) field: &'static str,
    pub(super) reason: &'static str,
    /// `spec.ingressClassName "nginx" names no IngressClass`
    pub(super) why: String,
    /// What to do about it.
    pub(super) fix: String,
}

/// The IngressClasses, looked at once.
#[derive(Debug)]
pub(super) struct Classes<'a> {
    /// By name: whether the class is ours.
    ours: BTreeMap<&'a str, bool>,
    defaults: Vec<&'a str>,
    options: &'a Options,
}

impl<'a> Classes<'a> {
    pub(super) fn new(objects: &'a Objects, options: &'a Options) -> Self {
        let classes = || objects.ingress_classes.iter();
        Self {
            ours: classes()
                .map(|(key, class)| (key.name.as_str(), is_ours(class, options)))
                .collect(),
            defaults: classes()
                .filter(|(_, class)| is_default(class))
                .map(|(key, _)| key.name.as_str())
                .collect(),
            options,
        }
    }

    /// The field wins over the annotation; the annotation over the cluster's default.
    pub(super) fn owner_of(&self, ingress: &Ingress) -> Ownership {
        let spec = ingress.spec.as_ref();
        if let Some(name) = non_empty(spec.and_then(|spec| spec.ingress_class_name.as_deref())) {
            return self.by_field(name);
        }
        let annotations = ingress.metadata.annotations.as_ref();
        match non_empty(
            annotations
                .and_then(|all| all.get(LEGACY_ANNOTATION))
                .map(String::as_str),
        ) {
            Some(name) => self.by_annotation(name),
            None => self.without_class(),
        }
    }

    fn by_field(&self, name: &str) -> Ownership {
        match self.ours.get(name) {
            Some(true) => Ownership::Ours,
            Some(false) => Ownership::Theirs,
            None => Ownership::Nobody(Mismatch {
                field: "spec.ingressClassName",
                reason: "IngressClassNotFound",
                why: format!("spec.ingressClassName {} names no IngressClass", excerpt(name)),
                fix: self.fix_for(name),
            }),
        }
    }

    fn by_annotation(&self, name: &str) -> Ownership {
        match self.ours.get(name) {
            Some(true) => Ownership::Ours,
            Some(false) => Ownership::Theirs,
            None if name == self.options.class => Ownership::Ours,
            None => Ownership::Nobody(Mismatch {
                field: "metadata.annotations[kubernetes.io/ingress.class]",
                reason: "IngressClassNotFound",
                why: format!("annotation {LEGACY_ANNOTATION} {} names no class", excerpt(name)),
                fix: self.fix_for(name),
            }),
        }
    }

    fn without_class(&self) -> Ownership {
        if self.options.classless {
            return Ownership::Ours;
        }
        let ours = |name: &&str| self.ours.get(name) == Some(&true);
        match self.defaults.as_slice() {
            [] => Ownership::Nobody(Mismatch {
                field: "spec.ingressClassName",
                reason: "NoIngressClass",
                why: "spec.ingressClassName is not set and no IngressClass is the cluster's default".into(),
                fix: format!(
                    "set it{}, or mark an IngressClass as default with the annotation {DEFAULT_ANNOTATION}: \"true\"",
                    self.suggestion()
                ),
            }),
            [only] if ours(only) => Ownership::Ours,
            several if !several.iter().any(ours) => Ownership::Theirs,
            several => Ownership::Nobody(Mismatch {
                field: "spec.ingressClassName",
                reason: "TwoDefaultClasses",
                why: format!(
                    "spec.ingressClassName is not set and {} IngressClasses are the cluster's default: {}",
                    several.len(),
                    quoted(several)
                ),
                fix: format!("set it, or leave {DEFAULT_ANNOTATION} on one IngressClass alone"),
            }),
        }
    }

    fn fix_for(&self, name: &str) -> String {
        let controller = self.options.controllers.first().map_or("", String::as_str);
        format!(
            "create the IngressClass {} with spec.controller {controller:?}{}",
            excerpt(name),
            match self.suggestion().as_str() {
                "" => String::new(),
                suggestion => format!(", or name an existing one{suggestion}"),
            }
        )
    }

    /// ` (ours: "a", "b")`, or nothing where no class is ours.
    fn suggestion(&self) -> String {
        let ours: Vec<_> = self
            .ours
            .iter()
            .filter(|(_, ours)| **ours)
            .map(|(name, _)| *name)
            .collect();
        match ours.as_slice() {
            [] => String::new(),
            names => format!(" (ours: {})", quoted(names)),
        }
    }
}

/// What is wrong with our own classes.
pub(super) fn check_classes(objects: &Objects, options: &Options, into: &mut Vec<Diagnostic>) {
    let classes = objects.ingress_classes.iter();
    let ours = classes.filter(|(_, class)| is_ours(class, options));
    let defaults = objects
        .ingress_classes
        .values()
        .filter(|class| is_default(class))
        .count();
    for (key, class) in ours {
        let object = ObjectRef::new(Kind::IngressClass, "", key.name.as_str());
        let mut notes = Notes::new(object.into(), class.metadata.generation);
        if class.spec.as_ref().is_some_and(|spec| spec.parameters.is_some()) {
            let message = "parameters are not supported and have no effect".to_owned();
            notes.warning("spec.parameters", "Unsupported", message);
        }
        if is_default(class) && defaults > 1 {
            let message = format!(
                "is one of {defaults} default IngressClasses, so that an Ingress without a class is nobody's; leave {DEFAULT_ANNOTATION} on one alone"
            );
            notes.error("metadata.annotations", "TwoDefaultClasses", message);
        }
        notes.finish(into);
    }
}

fn is_ours(class: &IngressClass, options: &Options) -> bool {
    let controller = class.spec.as_ref().and_then(|spec| spec.controller.as_ref());
    controller.is_some_and(|name| options.controllers.contains(name))
}

fn is_default(class: &IngressClass) -> bool {
    let annotations = class.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get(DEFAULT_ANNOTATION))
        .is_some_and(|value| value == "true")
}

fn non_empty(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn quoted(names: &[&str]) -> String {
    let shown: Vec<_> = names.iter().take(5).map(|name| format!("{name:?}")).collect();
    let more = if names.len() > 5 { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}
