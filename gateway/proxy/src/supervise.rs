//! Background tasks of the data plane that start again after a panic, and are counted when they do.

use crate::downstream::DownstreamMetrics;
use std::future::Future;
use std::time::Duration;
use tokio::runtime::Handle;

/// Before a task starts again.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs what `start` makes, again after each panic (`sluice_task_restarts_total{task}`), until it ends by itself.
pub(crate) fn supervise<F>(
    runtime: &Handle,
    counts: &DownstreamMetrics,
    task: &'static str,
    mut start: impl FnMut() -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let counts = counts.clone();
    runtime.spawn(async move {
        while tokio::spawn(start()).await.is_err_and(|error| error.is_panic()) {
            counts.restart(task);
            tracing::error!(task, "task panicked, starting it again");
            tokio::time::sleep(PAUSE).await;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::registry::Registry;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use tokio::sync::Notify;

    #[tokio::test]
    async fn a_task_that_panics_is_started_again_and_counted() {
        let mut registry = Registry::default();
        let counts = DownstreamMetrics::register(&mut registry);
        let (ended, runs) = (Arc::new(Notify::new()), Arc::new(AtomicU32::new(0)));
        let (tell, count) = (ended.clone(), runs.clone());
        supervise(&Handle::current(), &counts, "test", move || {
            let (tell, count) = (tell.clone(), count.clone());
            async move {
                assert!(count.fetch_add(1, SeqCst) > 0, "the first time");
                tell.notify_one();
            }
        });
        tokio::time::timeout(Duration::from_secs(20), ended.notified()).await.unwrap();
        assert_eq!(runs.load(SeqCst), 2);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("sluice_task_restarts_total{task=\"test\"} 1\n"), "{text}");
    }
}
