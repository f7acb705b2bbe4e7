//! Which plugins a configuration needs: what `sluice check` compiles, and what an upgrade waits for.

use sluice_model::Config;
use sluice_wasm::Desired;

/// All plugins, and each of their uses once.
pub(crate) fn desired(config: &Config) -> Desired {
    let (plugins, grants) = (config.plugins.clone(), config.plugin_grants.clone());
    let mut desired = Desired { plugins, grants, ..Desired::default() };
    let hosts = config.virtual_hosts.values().flat_map(|hosts| hosts.values());
    for plugin_use in hosts.flat_map(|host| host.rules.iter()).flat_map(|rule| &rule.plugins) {
        desired.add_use(plugin_use);
    }
    config.listener_plugins.values().flat_map(|uses| &**uses).for_each(|plugin_use| desired.add_use(plugin_use));
    desired
}
