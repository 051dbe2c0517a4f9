//! The names that the two common deployments give their Services.

use std::str::FromStr;

use super::Host;

/// A known deployment: `kubeblocks:CLUSTER[.NAMESPACE]` or `helm:RELEASE[.NAMESPACE]`.
///
/// ```
/// use qdrant_router::discovery::Preset;
///
/// let preset: Preset = "kubeblocks:orders.shop".parse()?;
/// assert_eq!(preset.headless(), "orders-qdrant-headless.shop.svc");
/// assert_eq!(preset.fallbacks()[0].name, "orders-qdrant-qdrant.shop.svc");
/// assert_eq!(preset.server_name().as_deref(), Some("any.orders-qdrant-headless.shop.svc.cluster.local"));
/// # Ok::<(), qdrant_router::discovery::PresetError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preset {
    kind: Kind,
    name: String,
    namespace: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// KubeBlocks 1.x: `{c}-qdrant-headless` and `{c}-qdrant-qdrant`.
    KubeBlocks,
    /// The official chart: `{f}-headless` and `{f}`, where `{f}` is the chart's full name.
    Helm,
}

/// Text is not a preset.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a preset; use `kubeblocks:CLUSTER[.NAMESPACE]` or `helm:RELEASE[.NAMESPACE]`")]
pub struct PresetError(String);

// === impl Preset ===

impl Preset {
    /// The headless Service.
    #[must_use]
    pub fn headless(&self) -> String {
        self.qualify(match self.kind {
            Kind::KubeBlocks => format!("{}-qdrant-headless", self.name),
            Kind::Helm => format!("{}-headless", self.full_name()),
        })
    }

    /// The names that its ClusterIP Service may have, the likeliest first.
    #[must_use]
    pub fn fallbacks(&self) -> Vec<Host> {
        let names = match self.kind {
            // The second is that of KubeBlocks up to 0.6.
            Kind::KubeBlocks => vec![format!("{}-qdrant-qdrant", self.name), format!("{}-qdrant", self.name)],
            Kind::Helm => vec![self.full_name()],
        };
        names.into_iter().map(|name| Host::named(self.qualify(name))).collect()
    }

    /// A name that the certificates of the nodes carry, where that can be told: KubeBlocks issues them for
    /// `*.{headless}.{namespace}.svc.cluster.local`, and for no address.
    #[must_use]
    pub fn server_name(&self) -> Option<String> {
        let namespace = self.namespace.as_ref().filter(|_| self.kind == Kind::KubeBlocks)?;
        Some(format!("any.{}-qdrant-headless.{namespace}.svc.cluster.local", self.name))
    }

    /// The chart's own rule: the release's name if it contains "qdrant", else with "-qdrant" added.
    fn full_name(&self) -> String {
        let mut name =
            if self.name.contains("qdrant") { self.name.clone() } else { format!("{}-qdrant", self.name) };
        name.truncate(63);
        name.trim_end_matches('-').to_owned()
    }

    fn qualify(&self, service: String) -> String {
        match &self.namespace {
            Some(namespace) => format!("{service}.{namespace}.svc"),
            None => service,
        }
    }
}

impl FromStr for Preset {
    type Err = PresetError;

    fn from_str(text: &str) -> Result<Self, PresetError> {
        let error = || PresetError(text.to_owned());
        let (kind, target) = text.split_once(':').ok_or_else(error)?;
        let kind = match kind {
            "kubeblocks" => Kind::KubeBlocks,
            "helm" => Kind::Helm,
            _ => return Err(error()),
        };
        let (name, namespace) = match target.split_once('.') {
            Some((name, namespace)) => (name, Some(namespace)),
            None => (target, None),
        };
        let is_label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        };
        if !is_label(name) || !namespace.is_none_or(is_label) {
            return Err(error());
        }
        Ok(Self { kind, name: name.to_owned(), namespace: namespace.map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_services() {
        for (text, headless, fallback) in [
            ("kubeblocks:c", "c-qdrant-headless", "c-qdrant-qdrant"),
            ("kubeblocks:c.ns", "c-qdrant-headless.ns.svc", "c-qdrant-qdrant.ns.svc"),
            ("helm:vectors", "vectors-qdrant-headless", "vectors-qdrant"),
            ("helm:my-qdrant.ns", "my-qdrant-headless.ns.svc", "my-qdrant.ns.svc"),
        ] {
            let preset: Preset = text.parse().expect(text);
            assert_eq!(
                (preset.headless(), preset.fallbacks()[0].name.clone()),
                (headless.to_owned(), fallback.to_owned())
            );
        }
    }

    #[test]
    fn kubeblocks_has_had_two_names_and_certificates_for_pods() {
        let names = |text: &str| {
            let preset: Preset = text.parse().expect(text);
            let fallbacks: Vec<String> = preset.fallbacks().into_iter().map(|host| host.name).collect();
            (fallbacks.join(" "), preset.server_name())
        };
        let server_name = "any.c-qdrant-headless.ns.svc.cluster.local".to_owned();
        assert_eq!(
            names("kubeblocks:c.ns"),
            ("c-qdrant-qdrant.ns.svc c-qdrant.ns.svc".to_owned(), Some(server_name))
        );
        assert_eq!(names("kubeblocks:c").1, None, "the namespace is part of it");
        assert_eq!(names("helm:c.ns"), ("c-qdrant.ns.svc".to_owned(), None));
    }

    #[test]
    fn what_is_not_a_preset() {
        for text in ["", "kubeblocks", "kubeblocks:", "kubeblocks:a.b.c", "helm:A", "operator:c", "helm:.ns"]
        {
            assert!(text.parse::<Preset>().is_err(), "{text}");
        }
    }
}
