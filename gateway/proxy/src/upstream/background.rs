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
