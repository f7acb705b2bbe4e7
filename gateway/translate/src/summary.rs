//! What a change came to, in words for one log line.

use sluice_model::ObjectRef;
use std::collections::BTreeSet;

/// Objects that are named before the rest is only counted.
const NAMED: usize = 3;

#[derive(Debug, Default)]
pub(crate) struct Changed {
    pub(crate) routes: BTreeSet<ObjectRef>,
    pub(crate) endpoints: usize,
    pub(crate) backends: usize,
    pub(crate) ports: usize,
    pub(crate) certificates: usize,
    pub(crate) plugins: usize,
    pub(crate) access_log: bool,
    pub(crate) locality: bool,
}

impl Changed {
    /// `2 routes changed (HTTPRoute shop/web, Ingress shop/api), 1 endpoint set`.
    pub(crate) fn summary(&self) -> String {
        let mut parts = Vec::new();
        if !self.routes.is_empty() {
            let mut names: Vec<_> = self.routes.iter().take(NAMED).map(ToString::to_string).collect();
            if self.routes.len() > NAMED {
                names.push(format!("{} more", self.routes.len() - NAMED));
            }
            parts.push(format!("{} ({})", count(self.routes.len(), "route"), names.join(", ")));
        }
        let rest = [
            (self.endpoints, "endpoint set"),
            // New backends come with their routes.
            (if self.routes.is_empty() { self.backends } else { 0 }, "backend"),
            (self.ports, "port"),
            (self.certificates, "certificate"),
            (self.plugins, "plugin"),
        ];
        parts.extend(rest.into_iter().filter(|(n, _)| *n > 0).map(|(n, what)| count(n, what)));
        if self.access_log {
            parts.push("the access log".to_owned());
        }
        if self.locality {
            parts.push("the gateway's own zone".to_owned());
        }
        // The verb stands once, after what is said first.
        match parts.first_mut() {
            None => "nothing changed".to_owned(),
            Some(first) => {
                *first = match first.split_once(" (") {
                    Some((what, names)) => format!("{what} changed ({names}"),
                    None => format!("{first} changed"),
                };
                parts.join(", ")
            }
        }
    }
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_model::Kind;

    #[test]
    fn a_summary_names_a_few_routes_and_counts_the_rest() {
        let mut changed = Changed { endpoints: 1, ..Changed::default() };
        assert_eq!(changed.summary(), "1 endpoint set changed");
        changed.routes.insert(ObjectRef::new(Kind::HTTPRoute, "shop", "web"));
        changed.routes.insert(ObjectRef::new(Kind::Ingress, "shop", "api"));
        assert_eq!(changed.summary(), "2 routes changed (HTTPRoute shop/web, Ingress shop/api), 1 endpoint set");
        for i in 0..1000 {
            changed.routes.insert(ObjectRef::new(Kind::Ingress, "shop", format!("r{i}")));
        }
        assert!(changed.summary().len() < 300 && changed.summary().contains("999 more"), "{}", changed.summary());
    }

    #[test]
    fn nothing_is_said_in_so_many_words() {
        assert_eq!(Changed::default().summary(), "nothing changed");
    }
}
