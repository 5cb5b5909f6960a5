//! Images in registries.

use berth_api::{DistributionApi, later};

use crate::engine::Engine;

impl DistributionApi for Engine {
    later!(distribution_inspect);
}
