//! Networks.

use berth_api::{
    ApiVersion, Ctx, NetworkApi, NetworkInspectQuery, NetworkListQuery, NetworkPruneQuery,
    models::{
        Network, NetworkConnectRequest, NetworkCreateRequest, NetworkCreateResponse,
        NetworkDisconnectRequest, NetworkPruneResponse,
    },
};
use berth_runtime::{Error, Kind};

use crate::{
    engine::{Engine, networks::record::Record, time},
    failure::Reply,
};

/// The first version whose lists do not show containers.
const BARE_LIST: ApiVersion = ApiVersion::new(1, 28);

impl Engine {
    fn network(&self, term: &str) -> Reply<Network> {
        let name_of = |id: &str| {
            let container = self.containers.find(id).ok()?;
            Some(container.now().name.clone())
        };
        Ok(self.networks.inspect(term, name_of)?)
    }

    /// Whether containers refer to a network.
    fn network_use(&self) -> impl Fn(&Record) -> bool {
        let used = self.containers.networks_in_use();
        move |record| used.contains(&record.id) || used.contains(&record.name)
    }
}

impl NetworkApi for Engine {
    async fn network_list(&self, ctx: Ctx, query: NetworkListQuery) -> Reply<Vec<Network>> {
        let list = self.networks.list(&query.filters, self.network_use())?;
        if ctx.version >= BARE_LIST {
            return Ok(list);
        }
        list.iter().map(|network| self.network(&network.id)).collect()
    }

    async fn network_inspect(&self, _: Ctx, id: String, query: NetworkInspectQuery) -> Reply<Network> {
        if !matches!(query.scope.as_str(), "" | "local") {
            return Err(Error::not_found(format!("network {id} not found")).into());
        }
        self.network(&id)
    }

    async fn network_create(&self, _: Ctx, body: NetworkCreateRequest) -> Reply<NetworkCreateResponse> {
        Ok(NetworkCreateResponse {
            id: self.networks.create(body).await?,
            warning: String::new(),
        })
    }

    async fn network_delete(&self, _: Ctx, id: String) -> Reply<()> {
        Ok(self.networks.remove(&id).await?)
    }

    async fn network_connect(&self, _: Ctx, id: String, body: NetworkConnectRequest) -> Reply<()> {
        self.networks.find(&id)?;
        let container = self.containers.find(&body.container)?;
        let settings = body.endpoint_config.unwrap_or_default();
        Ok(self.containers.connect(&container, &id, settings).await?)
    }

    async fn network_disconnect(&self, _: Ctx, id: String, body: NetworkDisconnectRequest) -> Reply<()> {
        let container = match self.containers.find(&body.container) {
            // An engine that ends a container also takes it off its networks, so nothing can be left of it.
            Err(error) if body.force && error.kind() == Kind::NotFound => {
                self.networks.find(&id)?;
                return Ok(());
            }
            found => found?,
        };
        Ok(self.containers.disconnect(&container, &id).await?)
    }

    async fn network_prune(&self, _: Ctx, query: NetworkPruneQuery) -> Reply<NetworkPruneResponse> {
        let until = query
            .filters
            .one("until")?
            .map(time::parse_moment_now)
            .transpose()?;
        Ok(self
            .networks
            .prune(&query.filters, until, self.network_use())
            .await?)
    }
}
