//! Networks.

use berth_api::{Ctx, NetworkApi, NetworkInspectQuery, NetworkListQuery, later, models::Network};

use crate::{engine::Engine, failure::Reply};

impl NetworkApi for Engine {
    async fn network_list(&self, _: Ctx, query: NetworkListQuery) -> Reply<Vec<Network>> {
        Ok(self.networks.list(&query.filters)?)
    }

    async fn network_inspect(&self, _: Ctx, id: String, _: NetworkInspectQuery) -> Reply<Network> {
        Ok(self.networks.find(&id)?)
    }

    later!(
        network_connect,
        network_create,
        network_delete,
        network_disconnect,
        network_prune
    );
}
