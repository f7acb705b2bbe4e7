//! Load that is shed before the kernel ends the process for its memory.
//!
//! A task compares the process' resident memory with its limit: that of its control group, or else the host's memory. At
//! 95 % HTTP/1 connections are closed after their answer, so that what they hold is given back; at 98 % requests are
//! answered 503 `overloaded`. A request reads one atomic.

use crate::downstream::DownstreamMetrics;
use crate::supervise::supervise;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;
use tokio::runtime::Handle;

/// How often memory is looked at.
const INTERVAL: Duration = Duration::from_millis(250);
/// Percent of the limit from which on connections are not kept.
const PRESSED: u64 = 95;
/// Percent of the limit from which on requests are refused.
const SHEDDING: u64 = 98;

/// How much there is to do with the memory that is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Load {
    Ordinary = 0,
    /// Connections are not kept.
    Pressed = 1,
    /// Requests are refused.
    Shedding = 2,
}

impl Load {
    fn of(used: u64, limit: u64) -> Load {
        let percent = used.saturating_mul(100).checked_div(limit).unwrap_or(0);
        match percent {
            SHEDDING.. => Load::Shedding,
            PRESSED.. => Load::Pressed,
            _ => Load::Ordinary,
        }
    }
}

/// The present load. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overload {
    load: Arc<AtomicU8>,
    state: Gauge,
    limit: Gauge,
    used: Gauge,
    /// Requests that were refused.
    pub(crate) shed: Counter,
}

impl Overload {
    /// Watches on `runtime`, which is not one that serves requests. `limit`: bytes; `None`: what the process may use by
    /// its control group or has by its host; `Some(0)`: nothing is ever shed.
    pub(crate) fn start(
        limit: Option<u64>,
        runtime: &Handle,
        registry: &mut Registry,
        counts: &DownstreamMetrics,
    ) -> Overload {
        let overload = Overload::default();
        let help = "0: ordinary; 1: connections are not kept; 2: requests are refused";
        registry.register("sluice_overload_state", help, overload.state.clone());
        registry.register("sluice_overload_shed", "Requests answered 503 for want of memory", overload.shed.clone());
        registry.register("sluice_memory_limit_bytes", "Memory that load is shed by; 0: none", overload.limit.clone());
        registry.register("sluice_memory_resident_bytes", "Resident memory of the process", overload.used.clone());
        let limit = limit.or_else(memory_limit).unwrap_or(0);
        overload.limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
        let watching = overload.clone();
        supervise(runtime, counts, "overload", move || watching.clone().watch(limit));
        overload
    }

    pub(crate) fn load(&self) -> Load {
        match self.load.load(Relaxed) {
            0 => Load::Ordinary,
            1 => Load::Pressed,
            _ => Load::Shedding,
        }
    }

    fn see(&self, used: u64, limit: u64) {
        let (before, now) = (self.load(), Load::of(used, limit));
        self.used.set(i64::try_from(used).unwrap_or(i64::MAX));
        self.state.set(now as i64);
        self.load.store(now as u8, Relaxed);
        if before != now {
            let (used_mib, limit_mib) = (used >> 20, limit >> 20);
            match now {
                Load::Ordinary => tracing::info!(used_mib, limit_mib, "memory is enough again"),
                Load::Pressed => tracing::warn!(used_mib, limit_mib, "memory is short: connections are not kept"),
                Load::Shedding => tracing::warn!(used_mib, limit_mib, "memory is nearly used up: requests are refused"),
            }
        }
    }

    async fn watch(self, limit: u64) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match resident() {
                Some(used) => self.see(used, limit),
                // Without /proc there is nothing to go by.
                None => return std::future::pending().await,
            }
        }
    }
}

/// Bytes of this process in memory (proc_pid_status(5)).
fn resident() -> Option<u64> {
    kilobytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// The least of what the control group, those above it, and the host leave.
fn memory_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    limit_files(&groups)
        .iter()
        .filter_map(|file| bytes(&std::fs::read_to_string(file).ok()?))
        .chain(kilobytes(&meminfo, "MemTotal:"))
        .min()
}

/// Where limits of control groups stand, by `/proc/self/cgroup` (cgroups(7)). In a container the own group is often the
/// root of what is mounted.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            v1 if v1.split(',').any(|controller| controller == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            files.push(Path::new(root).join(group).join(file));
        }
    }
    files
}

/// `max`, and version 1's number near 2^63, are no limit; the host's memory is less than either.
fn bytes(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// A field of the form `MemTotal:  2048 kB`.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_shed_in_two_steps() {
        let overload = Overload::default();
        for (used, expected) in [
            (949, Load::Ordinary),
            (950, Load::Pressed),
            (979, Load::Pressed),
            (980, Load::Shedding),
            (2_000, Load::Shedding),
            (10, Load::Ordinary),
        ] {
            overload.see(used, 1_000);
            assert_eq!(overload.load(), expected, "{used}");
        }
        overload.see(5_000, 0);
        assert_eq!(overload.load(), Load::Ordinary, "no limit");
    }

    #[test]
    fn limits_are_found_where_either_version_of_control_groups_keeps_them() {
        let files = |groups: &str| -> Vec<String> {
            limit_files(groups).into_iter().map(|file| file.display().to_string()).collect()
        };
        assert_eq!(
            files("0::/a/b\n"),
            ["/sys/fs/cgroup/a/b/memory.max", "/sys/fs/cgroup/a/memory.max", "/sys/fs/cgroup/memory.max"]
        );
        assert_eq!(
            files("5:cpu:/x\n4:memory,hugetlb:/pod\n"),
            ["/sys/fs/cgroup/memory/pod/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        );
        assert_eq!(kilobytes("MemFree: 1 kB\nMemTotal:  2048 kB\n", "MemTotal:"), Some(2 << 20));
        assert_eq!((bytes("max\n"), bytes("4096\n")), (None, Some(4096)));
        assert!(resident().unwrap() > 0);
        assert!(memory_limit().unwrap() > 0);
    }
}
