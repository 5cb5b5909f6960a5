//! Networks. So far there are those that every engine has; they can be looked at, not changed.

use berth_api::{
    Ctx, NetworkApi, NetworkInspectQuery, NetworkListQuery, NetworkPruneQuery, later,
    models::{Network, NetworkPruneResponse},
};

use crate::{engine::Engine, failure::Reply};

impl NetworkApi for Engine {
    async fn network_list(&self, _: Ctx, query: NetworkListQuery) -> Reply<Vec<Network>> {
        Ok(self.networks.list(&query.filters)?)
    }

    async fn network_inspect(&self, _: Ctx, id: String, _: NetworkInspectQuery) -> Reply<Network> {
        Ok(self.networks.find(&id)?)
    }

    async fn network_delete(&self, _: Ctx, id: String) -> Reply<()> {
        Ok(self.networks.remove(&id)?)
    }

    async fn network_prune(&self, _: Ctx, _: NetworkPruneQuery) -> Reply<NetworkPruneResponse> {
        // The networks that are there from the start stay.
        Ok(NetworkPruneResponse::default())
    }

    later!(network_connect, network_create, network_disconnect);
}
