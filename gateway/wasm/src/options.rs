//! What the host is given at start, for all plugins together.

use crate::test_bench::TestBench;
use sluice_fetch::Policy;
use std::path::PathBuf;
use std::sync::Arc;

/// Sizes and places that do not change while the process runs.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// Where compiled functions are kept between runs; none keeps nothing. The folder is made with mode 0700; one that
    /// belongs to another user, or that others may write to, is not used.
    pub cache_dir: Option<PathBuf>,
    /// Instances of all plugins at a time: the engine's pool. Default 2,000. Each takes three times `max_memory` of
    /// address space (not of memory) for as long as the process runs. Half of them are divided equally between the plugins, so that
    /// none can take them all. Metrics: `sluice_plugin_instances`, and `busy` of `sluice_plugin_calls_total`.
    pub instances: u32,
    /// Bytes of linear memory of all instances together, shared between the plugins as the instances are. Default 1 GiB.
    /// Metrics: `sluice_plugin_memory_bytes`, and `busy` of `sluice_plugin_calls_total`.
    pub memory: u64,
    /// The most that a Plugin's `limits.memory` may ask for, in bytes. Default 128 MiB.
    pub max_memory: u64,
    /// Bytes of a module at most. Default 32 MiB.
    pub max_module: u64,
    /// Calls that one pooled instance serves; what its guest leaks or forgets to reset goes with it. Default 10,000.
    pub recycle_after: u32,
    /// From whom plugins that are not on this host are fetched; none fetches nothing, and leaves such plugins as they are.
    /// Default none. Modules are kept in the folder `modules` of `cache_dir`. Metric: `sluice_plugin_fetches_total`.
    pub fetch: Option<Policy>,
    /// VMs of one configuration of a filter of the proxy-wasm ABI, at most: one for each thread that serves is enough. Default as
    /// many as there are cores, up to 16. Metric: `sluice_plugin_instances`.
    pub filter_vms: usize,
    /// Threads of low priority for plugins whose calls are slow. Default 2.
    pub slow_threads: usize,
    /// Clocks that stand in for the machine's, and an ear for plugins' metrics: where plugins are tested. Default none.
    pub test_bench: Option<Arc<dyn TestBench>>,
}

impl Default for HostOptions {
    fn default() -> Self {
        HostOptions {
            cache_dir: None,
            instances: 2_000,
            memory: 1 << 30,
            max_memory: 128 << 20,
            max_module: 32 << 20,
            recycle_after: 10_000,
            fetch: None,
            filter_vms: std::thread::available_parallelism().map_or(1, |cores| cores.get().min(16)),
            slow_threads: 2,
            test_bench: None,
        }
    }
}
