//! A new network.

use std::sync::Arc;

use berth_api::models::NetworkCreateRequest;
use berth_runtime::{Error, Kind, Result, failpoint::hit, net::Content};
use jiff::Timestamp;

use super::{
    Networks,
    addresses::{Range, overlap},
    blocking,
    host::Choosing,
    options::{Driver, Options},
    record::{Record, bridge_name, new_id},
    request::{self, Checked},
    state::{Entry, State},
};

impl Networks {
    /// Makes a network and answers with its id.
    ///
    /// # Errors
    /// Invalid for a request that is wrong, or if no subnet is free; [`Kind::Forbidden`] for a reserved name and for
    /// overlapping subnets; not found for the driver; conflict for a name that is taken. Nothing is left behind then.
    pub async fn create(&self, request: NetworkCreateRequest) -> Result<String> {
        let this = self.clone();
        blocking(move || this.create_blocking(request)).await
    }

    fn create_blocking(&self, mut request: NetworkCreateRequest) -> Result<String> {
        request::check_name(&request.name)?;
        let config_from = self.copy_configuration(&mut request)?;
        let checked = request::check(&request)?;
        let mut record = Record {
            id: new_id(),
            name: request.name,
            driver: checked.driver.name().to_owned(),
            created: Timestamp::now(),
            ranges: checked.ranges.clone(),
            unused: checked.unused.clone(),
            ipam_options: request.ipam.and_then(|ipam| ipam.options),
            ipv6: request.enable_ipv6,
            internal: request.internal,
            attachable: request.attachable,
            config_only: request.config_only,
            config_from,
            options: request.options,
            labels: request.labels,
            link: String::new(),
        };
        record.link = self.link_name(&record, &checked);
        // From here on no other engine chooses a subnet.
        let choosing = Choosing::begin()?;
        if !record.config_only {
            self.choose_ranges(&mut record)?;
        }
        let record = self.reserve(record)?;
        let made = self.make(&record);
        drop(choosing);
        match made {
            Ok(()) => {
                let _ = hit("network.made");
                self.publish(&record, "create", None);
                Ok(record.id.clone())
            }
            Err(error) => {
                self.state().networks.remove(&record.id);
                Err(error)
            }
        }
    }

    /// Takes over what a configuration-only network says.
    fn copy_configuration(&self, request: &mut NetworkCreateRequest) -> Result<String> {
        let name = request
            .config_from
            .as_ref()
            .map(|from| from.network.clone())
            .unwrap_or_default();
        if name.is_empty() {
            return Ok(name);
        }
        let from = self.find(&name)?;
        if !from.config_only {
            return Err(Error::new(
                Kind::Forbidden,
                format!("{name} is not a configuration network"),
            ));
        }
        if request.config_only || request.ipam.as_ref().is_some_and(|ipam| ipam.config.is_some()) {
            return Err(Error::new(
                Kind::Forbidden,
                "configuration network cannot be combined with other configuration",
            ));
        }
        let model = from.model();
        request.ipam = Some(model.ipam);
        request.enable_ipv6 = model.enable_ipv6;
        request.internal = model.internal;
        request.options = model.options;
        for (key, value) in model.labels {
            request.labels.entry(key).or_insert(value);
        }
        Ok(from.name.clone())
    }

    fn link_name(&self, record: &Record, checked: &Checked) -> String {
        match checked.driver {
            _ if record.config_only => String::new(),
            Driver::Bridge => bridge_name(&self.instance, &record.name, &record.id, &checked.options),
            Driver::Macvlan | Driver::Ipvlan if checked.options.parent.is_empty() => {
                format!("dm-{}", record.id.get(..12).unwrap_or_default())
            }
            Driver::Macvlan | Driver::Ipvlan => checked.options.parent.clone(),
            Driver::Host | Driver::Null => String::new(),
        }
    }

    /// Adds the ranges that the engine chooses.
    pub(super) fn choose_ranges(&self, record: &mut Record) -> Result<()> {
        if record.range(false).is_none() {
            let subnet = self.choose_subnet(&self.settings.pools, &[])?;
            record.ranges.insert(0, Range::chosen(subnet));
        }
        if record.ipv6 && record.range(true).is_none() {
            let subnet = self.choose_subnet(&self.ipv6_pool(), &[])?;
            record.ranges.push(Range::chosen(subnet));
        }
        Ok(())
    }

    /// Takes the name and the subnets.
    fn reserve(&self, record: Record) -> Result<Arc<Record>> {
        let mut state = self.state();
        if state
            .networks
            .values()
            .any(|entry| entry.record.name == record.name)
        {
            return Err(Error::conflict(format!(
                "network with name {} already exists",
                record.name
            )));
        }
        if !record.config_only {
            check_clashes(&state, &record)?;
        }
        let record = Arc::new(record);
        state
            .networks
            .insert(record.id.clone(), Entry::new(Arc::clone(&record)));
        Ok(record)
    }

    /// Makes a network that has been reserved, on the host and on disk.
    fn make(&self, record: &Arc<Record>) -> Result<()> {
        if record.config_only {
            record.store(&self.directory)?;
            self.state().entry(&record.id)?.closed = false;
            return Ok(());
        }
        let index = self.make_link(record)?;
        let made = record.store(&self.directory).and_then(|()| {
            self.state().entry(&record.id)?.index = index;
            match record.driver == "bridge" {
                true => self.firewall(|firewall| firewall.add(&Content::networks(vec![record.firewall()?]))),
                false => Ok(()),
            }
        });
        if made.is_err() {
            record.erase(&self.directory)?;
            self.remove_link(record)?;
            return made;
        }
        self.state().entry(&record.id)?.closed = false;
        Ok(())
    }
}

/// Refuses a network that takes something of another one.
fn check_clashes(state: &State, record: &Record) -> Result<()> {
    let others = || {
        state
            .networks
            .values()
            .map(|entry| &entry.record)
            .filter(|other| !other.config_only)
    };
    for range in &record.ranges {
        let clash = others()
            .flat_map(|other| &other.ranges)
            .any(|other| overlap(&other.subnet, &range.subnet));
        if clash {
            return Err(request::overlaps());
        }
    }
    let forbidden = |message: String| Err(Error::new(Kind::Forbidden, message));
    if let Some(other) = others().find(|other| !record.link.is_empty() && other.link == record.link) {
        return match record.driver.as_str() {
            "bridge" => forbidden(format!(
                "cannot create network {} ({}): conflicts with network {} ({}): networks have same bridge name",
                record.id, record.link, other.id, other.link
            )),
            _ => forbidden(format!(
                "network {} is already using parent interface {}",
                other.name, record.link
            )),
        };
    }
    let options = Options::read(&record.options)?;
    if record.driver != "bridge" {
        options.upon(record.driver()?)?;
    }
    Ok(())
}
