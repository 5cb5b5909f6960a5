//! Images in registries.

use berth_api::{Ctx, DistributionApi, DistributionInspectHeaders, models::DistributionInspect};

use super::registry;
use crate::{engine::Engine, failure::Reply};

impl DistributionApi for Engine {
    async fn distribution_inspect(
        &self,
        _: Ctx,
        name: String,
        headers: DistributionInspectHeaders,
    ) -> Reply<DistributionInspect> {
        registry::inspect(self, &name, &headers.x_registry_auth).await
    }
}
