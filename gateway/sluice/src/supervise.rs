//! Background tasks with an owner: each has a name, starts again after a panic, and is counted when it does.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The pause before a task starts again: doubles from the first to the last of these.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(10);

/// A task that ran for this long starts with the first pause again.
const STEADY: Duration = Duration::from_secs(60);

/// Starts tasks and keeps them running until it is told to stop.
#[derive(Clone)]
pub(crate) struct Supervisor {
    /// Counts a restart of the task with this name (`sluice_task_restarts_total{task}`).
    restarted: Arc<dyn Fn(&'static str) + Send + Sync>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Supervisor {
    pub(crate) fn new(stop: CancellationToken, restarted: impl Fn(&'static str) + Send + Sync + 'static) -> Supervisor {
        Supervisor { restarted: Arc::new(restarted), tasks: TaskTracker::new(), stop }
    }

    /// Runs what `start` makes, again and again, until the stop. Whatever must outlive a panic is what `start` holds.
    pub(crate) fn spawn<F>(&self, task: &'static str, mut start: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let restarted = self.restarted.clone();
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let mut pause = FIRST_PAUSE;
            while !stop.is_cancelled() {
                let began = tokio::time::Instant::now();
                let mut running = tokio::spawn(start());
                let ended = tokio::select! {
                    () = stop.cancelled() => {
                        running.abort();
                        return;
                    }
                    ended = &mut running => ended,
                };
                // Nobody but the runtime ends a task of ours, and only when it ends itself.
                if ended.as_ref().is_err_and(JoinError::is_cancelled) {
                    return;
                }
                restarted(task);
                if began.elapsed() > STEADY {
                    pause = FIRST_PAUSE;
                }
                let panicked = ended.is_err_and(|error| error.is_panic());
                tracing::error!(task, panicked, pause_ms = pause.as_millis() as u64, "task ended, starting it again");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(LAST_PAUSE);
            }
        });
    }

    /// Waits until all tasks have ended, after the stop.
    pub(crate) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::sync::Notify;

    #[tokio::test]
    async fn a_task_that_panics_is_started_again_and_counted() {
        let stop = CancellationToken::new();
        let restarts = Arc::new(AtomicU32::new(0));
        let counted = restarts.clone();
        let supervisor = Supervisor::new(stop.clone(), move |task| {
            assert_eq!(task, "fragile");
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let (runs, third) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let signal = third.clone();
        supervisor.spawn("fragile", move || {
            let (runs, signal) = (runs.clone(), signal.clone());
            async move {
                if runs.fetch_add(1, Ordering::Relaxed) < 2 {
                    panic!("as the test asks");
                }
                signal.notify_one();
                std::future::pending::<()>().await;
            }
        });
        third.notified().await;
        assert_eq!(restarts.load(Ordering::Relaxed), 2);
        stop.cancel();
        supervisor.ended().await;
    }
}
