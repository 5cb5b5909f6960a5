//! The end of a network.

use std::sync::Arc;

use berth_api::{
    Filters,
    models::{EventMessageType, NetworkPruneResponse},
};
use berth_runtime::{Error, Kind, Result, net::Content};
use jiff::Timestamp;

use super::{Networks, blocking, record::Record, state};
use crate::engine::events::Attributes;

impl Networks {
    /// Removes a network that no running container is on.
    ///
    /// # Errors
    /// As [`Networks::find`]; [`Kind::Forbidden`] for a predefined network and for one that is in use; internal.
    pub async fn remove(&self, term: &str) -> Result<()> {
        let (this, term) = (self.clone(), term.to_owned());
        blocking(move || this.remove_blocking(&term)).await
    }

    fn remove_blocking(&self, term: &str) -> Result<()> {
        let record = self.close_network(term)?;
        let removed = self.take_away(&record);
        let mut state = self.state();
        match removed {
            Ok(()) => {
                state.networks.remove(&record.id);
                drop(state);
                self.publish(&record, "destroy", None);
                Ok(())
            }
            Err(error) => {
                if let Ok(entry) = state.entry(&record.id) {
                    entry.closed = false;
                }
                Err(error)
            }
        }
    }

    /// Keeps everybody from joining a network that is to be removed.
    fn close_network(&self, term: &str) -> Result<Arc<Record>> {
        let mut state = self.state();
        let record = Arc::clone(&state.find(term)?.record);
        if record.is_predefined() {
            return Err(Error::new(
                Kind::Forbidden,
                format!("{} is a pre-defined network and cannot be removed", record.name),
            ));
        }
        let used = state
            .networks
            .values()
            .any(|other| other.record.config_from == record.name);
        if record.config_only && used {
            return Err(Error::new(
                Kind::Forbidden,
                format!("configuration network {} is in use", record.name),
            ));
        }
        let entry = state.entry(&record.id)?;
        if !entry.endpoints.is_empty() {
            return Err(state::has_endpoints(&record.name, &record.id));
        }
        if entry.closed {
            return Err(state::not_found(term));
        }
        entry.closed = true;
        Ok(record)
    }

    fn take_away(&self, record: &Record) -> Result<()> {
        record.erase(&self.directory)?;
        let is_bridge = record.driver == "bridge" && !record.config_only;
        let index = match self.state().entry(&record.id) {
            Ok(entry) => std::mem::take(&mut entry.index),
            Err(_) => 0,
        };
        if is_bridge && index != 0 {
            self.firewall(|firewall| firewall.delete(&Content::networks(vec![record.firewall()?])))?;
        }
        self.remove_link(record)
    }

    /// Removes all networks that no container refers to and that fit the filters `label`, `label!` and `until`.
    /// `is_used` says whether a container, running or not, refers to a network.
    ///
    /// # Errors
    /// Conflict if another clean-up is under way; invalid for a bad filter.
    pub async fn prune(
        &self,
        filters: &Filters,
        until: Option<Timestamp>,
        is_used: impl Fn(&Record) -> bool,
    ) -> Result<NetworkPruneResponse> {
        let _the_only_one = self
            .pruning
            .try_lock()
            .map_err(|_| Error::conflict("a prune operation is already running"))?;
        let records: Vec<_> = self
            .state()
            .networks
            .values()
            .map(|entry| Arc::clone(&entry.record))
            .collect();
        let mut response = NetworkPruneResponse::default();
        for record in records {
            let fits = !record.is_predefined()
                && until.is_none_or(|until| record.created < until)
                && filters.labels(|key| record.labels.get(key).map(String::as_str))
                && !is_used(&record);
            if !fits {
                continue;
            }
            match self.remove(&record.id).await {
                Ok(()) => response
                    .networks_deleted
                    .get_or_insert_default()
                    .push(record.name.clone()),
                Err(error) if matches!(error.kind(), Kind::Forbidden | Kind::NotFound) => {}
                Err(error) => {
                    tracing::warn!(network = record.name, %error, "a network could not be pruned");
                }
            }
        }
        let attributes = Attributes::from([("reclaimed".to_owned(), "0".to_owned())]);
        self.events
            .publish(EventMessageType::Network, "prune", "", attributes);
        Ok(response)
    }
}
