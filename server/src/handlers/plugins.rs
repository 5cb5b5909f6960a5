//! Plugins. There are none, and none can be installed: whatever a plugin would do is built in or left out.

use berth_api::{Ctx, PluginApi, PluginListQuery, later, models::Plugin};
use berth_runtime::Kind;

use crate::{
    engine::Engine,
    failure::{Failure, Reply},
};

impl PluginApi for Engine {
    async fn plugin_list(&self, _: Ctx, _: PluginListQuery) -> Reply<Vec<Plugin>> {
        Ok(Vec::new())
    }

    async fn plugin_inspect(&self, _: Ctx, name: String) -> Reply<Plugin> {
        Err(Failure::new(
            Kind::NotFound,
            format!("plugin \"{name}\" not found"),
        ))
    }

    later!(
        get_plugin_privileges,
        plugin_create,
        plugin_delete,
        plugin_disable,
        plugin_enable,
        plugin_pull,
        plugin_push,
        plugin_set,
        plugin_upgrade
    );
}
