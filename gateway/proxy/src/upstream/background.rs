//! Tasks that belong to a backend and end with it.

use super::metrics::{TaskLabel, UpstreamMetrics};
use std::future::Future;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Pause before a task that panicked is started again: one that panics at once must not take a core.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// A task that is started again when it panics (`sluice_upstream_task_restarts_total`) and aborted when this is dropped.
#[derive(Debug)]
pub(super) struct Background(JoinHandle<()>);

impl Background {
    pub(super) fn spawn<F>(
        runtime: &Handle,
        task: &'static str,
        backend: String,
        metrics: &UpstreamMetrics,
        mut run: impl FnMut() -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let restarts = metrics.task_restarts.get_or_create_owned(&TaskLabel { task });
        let supervised = async move {
            loop {
                // A child dropped with this future is aborted with it.
                let child = AbortOnDrop(tokio::spawn(run()));
                match child.await {
                    Ok(()) => return,
                    Err(error) if error.is_panic() => {
                        restarts.inc();
                        tracing::error!(task, backend, "background task panicked; starting it again");
                        tokio::time::sleep(RESTART_PAUSE).await;
                    }
                    Err(_) => return,
                }
            }
        };
        Background(runtime.spawn(supervised))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Future for AbortOnDrop {
    type Output = Result<(), tokio::task::JoinError>;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.0).poll(cx)
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::registry::Registry;
    use std::sync::Arc;
    use tokio::sync::Notify;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_started_again_and_counted() {
        let mut registry = Registry::default();
        let metrics = UpstreamMetrics::register(&mut registry);
        let again = Arc::new(Notify::new());
        let (tell, mut runs) = (again.clone(), 0);
        let _task = Background::spawn(&Handle::current(), "test", "shop/web:80".into(), &metrics, move || {
            runs += 1;
            let (tell, first) = (tell.clone(), runs == 1);
            async move {
                assert!(!first, "the first time");
                tell.notify_one();
            }
        });
        tokio::time::timeout(Duration::from_secs(20), again.notified()).await.unwrap();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("sluice_upstream_task_restarts_total{task=\"test\"} 1\n"), "{text}");
    }
}
