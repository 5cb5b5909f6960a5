//! Networks as clients see them.

use std::collections::BTreeMap;

use berth_api::{
    Filters,
    models::{Network, NetworkContainer},
};
use berth_runtime::{Error, Result};
use regex::{Regex, RegexBuilder};

use super::{Networks, record::Record, state::Entry};

impl Networks {
    /// The networks that fit `filters`, the oldest first, without their containers. `is_used` says whether a container,
    /// running or not, refers to a network.
    ///
    /// # Errors
    /// Invalid for a value that a filter does not take.
    pub fn list(&self, filters: &Filters, is_used: impl Fn(&Record) -> bool) -> Result<Vec<Network>> {
        for value in filters.values("type") {
            if !matches!(value, "builtin" | "custom") {
                return Err(Error::invalid(format!(
                    "invalid filter 'type={value}': use builtin or custom"
                )));
            }
        }
        let invalid = |reply: berth_api::ErrorReply| Error::invalid(reply.message);
        let dangling = filters.boolean("dangling").map_err(invalid)?;
        let (names, ids) = (Patterns::new(filters, "name"), Patterns::new(filters, "id"));
        let fits = |record: &Record| {
            let kind = if record.is_predefined() {
                "builtin"
            } else {
                "custom"
            };
            filters.exact("type", kind)
                && filters.exact("driver", &record.driver)
                && filters.exact("scope", "local")
                && names.fit(&record.name)
                && ids.fit(&record.id)
                && filters.labels(|key| record.labels.get(key).map(String::as_str))
                && dangling.is_none_or(|wanted| {
                    let dangles = !record.is_predefined() && !is_used(record);
                    dangles == wanted
                })
        };
        let mut records: Vec<_> = self
            .state()
            .networks
            .values()
            .map(|entry| std::sync::Arc::clone(&entry.record))
            .collect();
        records.retain(|record| fits(record));
        records.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        Ok(records.iter().map(|record| record.model()).collect())
    }

    /// A network with its running containers; `name_of` gives the name of a container.
    ///
    /// # Errors
    /// As [`Networks::find`].
    pub fn inspect(&self, term: &str, name_of: impl Fn(&str) -> Option<String>) -> Result<Network> {
        let (record, endpoints) = {
            let state = self.state();
            let entry: &Entry = state.find(term)?;
            (
                std::sync::Arc::clone(&entry.record),
                entry.endpoints.values().cloned().collect::<Vec<_>>(),
            )
        };
        let text = |net: Option<ipnet::IpNet>| net.map(|net| net.to_string()).unwrap_or_default();
        let containers: BTreeMap<_, _> = endpoints
            .iter()
            .map(|endpoint| {
                let name = name_of(&endpoint.container);
                let key = match &name {
                    Some(_) => endpoint.container.clone(),
                    None => format!("ep-{}", endpoint.id),
                };
                let shown = NetworkContainer {
                    name: name.unwrap_or_default(),
                    endpoint_id: endpoint.id.clone(),
                    mac_address: endpoint.mac.clone(),
                    ipv4_address: text(endpoint.ipv4),
                    ipv6_address: text(endpoint.ipv6),
                };
                (key, shown)
            })
            .collect();
        Ok(Network {
            containers,
            ..record.model()
        })
    }
}

/// Texts that are looked for as they are, or as unanchored expressions.
struct Patterns(Vec<(String, Option<Regex>)>);

impl Patterns {
    fn new(filters: &Filters, name: &str) -> Self {
        let compiled = |text: &str| RegexBuilder::new(text).size_limit(1 << 20).build().ok();
        Self(
            filters
                .values(name)
                .map(|text| (text.to_owned(), compiled(text)))
                .collect(),
        )
    }

    fn fit(&self, value: &str) -> bool {
        self.0.is_empty()
            || self.0.iter().any(|(text, expression)| {
                text == value
                    || expression
                        .as_ref()
                        .is_some_and(|expression| expression.is_match(value))
            })
    }
}
