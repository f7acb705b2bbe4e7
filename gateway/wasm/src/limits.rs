//! Memory of one instance: the limit that wasmtime asks at each growth, and the gauge that follows it.

use crate::configured::PluginState;
use std::sync::Arc;
use wasmtime::ResourceLimiter;

/// Elements of a table at most; the tables of a guest hold its function pointers.
pub(crate) const MAX_TABLE_ELEMENTS: usize = 20_000;

pub(crate) struct Limits {
    /// Bytes of linear memory, all memories of the instance together.
    memory: usize,
    used: usize,
    /// Whether a growth was refused in this call: a trap after it is the limit's doing.
    pub(crate) refused: bool,
    /// Whose instance it is; none for one that is only there to be configured.
    plugin: Option<Arc<PluginState>>,
}

/// The memory that all plugins share is used up: no fault of the plugin that asked last.
#[derive(Debug, thiserror::Error)]
#[error("the gateway's memory for plugins is used up")]
pub(crate) struct MemoryUsedUp;

impl Limits {
    /// For an instance that is counted.
    pub(crate) fn counted(memory: u64, plugin: Arc<PluginState>) -> Limits {
        plugin.metrics.instances.inc();
        Limits { memory: bytes(memory), used: 0, refused: false, plugin: Some(plugin) }
    }

    /// For an instance that is only there to be configured.
    pub(crate) fn uncounted(memory: u64) -> Limits {
        Limits { memory: bytes(memory), used: 0, refused: false, plugin: None }
    }

    /// The plugin whose instance it is.
    pub(crate) fn plugin(&self) -> Option<&PluginState> {
        self.plugin.as_deref()
    }

    /// Bytes of linear memory at most.
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    /// Bytes of linear memory now.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Room that the host needs for itself, beside the guest's limit.
    pub(crate) fn allow_more(&mut self, bytes: usize) {
        self.memory = self.memory.saturating_add(bytes);
    }
}

fn bytes(memory: u64) -> usize {
    usize::try_from(memory).unwrap_or(usize::MAX)
}

impl Drop for Limits {
    fn drop(&mut self) {
        if let Some(plugin) = &self.plugin {
            plugin.memory.give(self.used as u64);
            plugin.metrics.memory.dec_by(self.used as i64);
            plugin.metrics.instances.dec();
        }
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current);
        if self.used.saturating_add(more) > self.memory {
            self.refused = true;
            return Ok(false);
        }
        if let Some(plugin) = &self.plugin {
            if !plugin.memory.take(more as u64) {
                return Err(MemoryUsedUp.into());
            }
            plugin.metrics.memory.inc_by(more as i64);
        }
        self.used += more;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= MAX_TABLE_ELEMENTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_memories_of_an_instance_share_one_limit() {
        let mut limits = Limits::uncounted(100);
        assert!(limits.memory_growing(0, 60, None).unwrap());
        assert!(limits.memory_growing(0, 40, None).unwrap());
        assert!(!limits.memory_growing(40, 41, None).unwrap());
        assert!(limits.refused);
        assert_eq!(limits.used(), 100);
    }
}
